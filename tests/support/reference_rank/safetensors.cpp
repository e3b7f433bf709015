#include "tests/support/reference_rank/safetensors.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace ckptd::reference_rank {
namespace {

namespace fs = std::filesystem;

std::ifstream open_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  file.exceptions(std::ios::failbit | std::ios::badbit);
  return file;
}

void read_file(const fs::path& path, std::map<std::string, StoredTensor>& tensors) {
  auto file = open_file(path);
  unsigned char length_bytes[8];
  file.read(reinterpret_cast<char*>(length_bytes), sizeof length_bytes);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | length_bytes[i];
  std::string header(length, '\0');
  file.read(header.data(), static_cast<std::streamsize>(length));
  const auto parsed = nlohmann::json::parse(header);
  for (const auto& [name, entry] : parsed.items()) {
    if (name == "__metadata__") continue;
    auto begin = entry.at("data_offsets").at(0).get<std::uint64_t>();
    auto end = entry.at("data_offsets").at(1).get<std::uint64_t>();
    tensors[name] = {entry.at("dtype"), entry.at("shape"), path, sizeof length_bytes + length + begin, end - begin};
  }
}

std::set<fs::path> files_of(const fs::path& path) {
  if (!fs::is_directory(path)) return {path};
  std::set<fs::path> files;
  auto index = path / "model.safetensors.index.json";
  if (fs::exists(index)) {
    auto file = open_file(index);
    const auto parsed = nlohmann::json::parse(file);
    for (const auto& shard : parsed.at("weight_map"))
      files.insert(path / shard.get<std::string>());
    return files;
  }
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".safetensors") files.insert(entry.path());
  return files;
}

}  // namespace

std::map<std::string, StoredTensor> read_checkpoint(const fs::path& path) {
  std::map<std::string, StoredTensor> tensors;
  for (const auto& file : files_of(path)) read_file(file, tensors);
  return tensors;
}

std::vector<char> read_bytes(const StoredTensor& tensor) {
  std::vector<char> bytes(tensor.bytes);
  auto file = open_file(tensor.file);
  file.seekg(static_cast<std::streamoff>(tensor.offset));
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

}  // namespace ckptd::reference_rank
