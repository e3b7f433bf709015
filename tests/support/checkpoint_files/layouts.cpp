#include "tests/support/checkpoint_files/layouts.h"

#include <fmt/format.h>

#include "tests/support/checkpoint_files/folder.h"

namespace ckptd::tests {

namespace fs = std::filesystem;

std::string shard_name(std::size_t number, std::size_t shards) {
  if (shards == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", number + 1, shards);
}

std::string index_text(const std::vector<std::pair<std::string, std::string>>& weight_map) {
  std::string entries;
  for (const auto& [tensor, shard] : weight_map)
    entries += fmt::format("{}\n    {}: {}", entries.empty() ? "" : ",", json_string(tensor), json_string(shard));
  return fmt::format("{{\n  \"metadata\": {},\n  \"weight_map\": {{{}\n  }}\n}}\n",
                     R"({"total_size": 1.5e3, "x": [-1, null]})", entries);
}

std::string index_of(const Shards& shards) {
  std::vector<std::pair<std::string, std::string>> weight_map;
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const auto& tensor : shards[i]) weight_map.emplace_back(tensor.name, shard_name(i, shards.size()));
  return index_text(weight_map);
}

std::map<std::string, std::string> files_of(const Shards& shards, bool with_index) {
  std::map<std::string, std::string> files;
  for (std::size_t i = 0; i < shards.size(); ++i) files[shard_name(i, shards.size())] = safetensors_file(shards[i]);
  if (with_index) files["model.safetensors.index.json"] = index_of(shards);
  return files;
}

void write_checkpoint(const fs::path& directory, const Shards& shards, bool with_index) {
  for (const auto& [name, content] : files_of(shards, with_index)) write_file(directory / name, content);
}

fs::path write_hub_cache(const fs::path& cache, std::string_view revision,
                         const std::map<std::string, std::string>& files) {
  const auto repository = cache / "models--org--name";
  const auto snapshot = repository / "snapshots" / revision;
  fs::create_directories(snapshot);
  write_file(repository / "refs" / "main", revision);
  for (const auto& [name, content] : files) {
    const auto id = fmt::format("{:064x}", std::hash<std::string>{}(name + content));
    write_file(repository / "blobs" / id, content);
    fs::create_symlink(fs::path("../../blobs") / id, snapshot / name);
  }
  return snapshot;
}

}  // namespace ckptd::tests
