#include "daemon/source/checkpoint_files.h"

#include <algorithm>

#include "daemon/source/json_text.h"
#include "daemon/source/opened_file.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFileEnding = ".safetensors";
constexpr std::string_view kIndexEnding = ".safetensors.index.json";
constexpr std::string_view kUsualIndex = "model.safetensors.index.json";

std::unexpected<Error> system_failure(std::error_code error, std::string_view verb, const fs::path& path) {
  return std::unexpected(system_error(error.value(), fmt::format("{} {}", verb, shown(path.native()))));
}

struct Listing {
  std::vector<std::string> files;
  std::vector<std::string> indexes;
};

Result<> check_count(std::size_t files, const fs::path& directory) {
  if (files <= kFilesLimit) return {};
  return fail(ErrorKind::unsupported, "{} has more than {} safetensors files, which are too many to hold open",
              shown(directory.native()), kFilesLimit);
}

Result<Listing> list(const fs::path& directory) {
  Listing listing;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    auto name = entry->path().filename().string();
    const bool is_index = name.ends_with(kIndexEnding), is_file = name.ends_with(kFileEnding);
    if (name.starts_with('.') || (!is_index && !is_file)) continue;
    if (!is_utf8(name))
      return fail(ErrorKind::invalid_argument, "{}: the name of the file {} is not UTF-8; rename it",
                  shown(directory.native()), shown(name));
    auto& names = is_index ? listing.indexes : listing.files;
    names.push_back(std::move(name));
    CKPTD_TRY(check_count(names.size(), directory));
  }
  if (error) return system_failure(error, "list", directory);
  std::ranges::sort(listing.files);
  std::ranges::sort(listing.indexes);
  return listing;
}

/// Empty when there is none.
Result<std::string> index_among(const std::vector<std::string>& indexes, const fs::path& directory) {
  if (indexes.empty()) return std::string();
  if (indexes.size() == 1) return indexes.front();
  if (std::ranges::find(indexes, kUsualIndex) != indexes.end()) return std::string(kUsualIndex);
  return fail(ErrorKind::invalid_argument, "{} has {} indexes, {} and {} among them, and none is {}: keep one",
              shown(directory.native()), indexes.size(), shown(indexes[0]), shown(indexes[1]), kUsualIndex);
}

Result<Index> read_index(const fs::path& path, const Roots& roots) {
  const auto file = CKPTD_TRY(OpenedFile::open(path, roots, false));
  if (file.bytes() > kIndexLimitBytes)
    return fail(ErrorKind::corrupt, "{} has {} bytes, and an index of a checkpoint has at most {}",
                shown(path.native()), file.bytes(), kIndexLimitBytes);
  std::vector<std::byte> text(file.bytes());
  CKPTD_TRY(file.read(0, text));
  CKPTD_TRY(file.check_unchanged());
  auto index = parse_index(text);
  if (!index) return std::unexpected(index.error().within(shown(path.native())));
  return index;
}

Result<CheckpointFiles> files_in_directory(const fs::path& directory, const Roots& roots) {
  auto listing = CKPTD_TRY(list(directory));
  CheckpointFiles found{.directory = directory, .names = {}, .index = {}, .index_name = {}};
  found.index_name = CKPTD_TRY(index_among(listing.indexes, directory));
  if (found.index_name.empty()) {
    found.names = std::move(listing.files);
  } else {
    found.index = CKPTD_TRY(read_index(found.index_path(), roots));
    found.names = found.index->shards();
  }
  CKPTD_TRY(check_count(found.names.size(), directory));
  if (found.names.empty())
    return fail(ErrorKind::invalid_argument, "{} is not a checkpoint: no file there ends in {}",
                shown(directory.native()), kFileEnding);
  return found;
}

}  // namespace

Result<CheckpointFiles> find_checkpoint_files(const fs::path& path, const Roots& roots) {
  std::error_code error;
  // Before anything else: what lies outside the roots is denied whether it exists or not.
  const auto resolved = fs::weakly_canonical(path, error);
  if (error) return system_failure(error, "resolve", path);
  CKPTD_TRY(roots.admit(resolved, path));
  const auto type = fs::status(path, error).type();
  if (type == fs::file_type::not_found)
    return std::unexpected(system_error(ENOENT, fmt::format("open {}", shown(path.native()))));
  if (error) return system_failure(error, "look at", path);
  if (type == fs::file_type::directory) return files_in_directory(resolved, roots);
  auto directory = fs::canonical(path.parent_path(), error);
  if (error) return system_failure(error, "resolve", path.parent_path());
  return CheckpointFiles{
      .directory = std::move(directory), .names = {path.filename().string()}, .index = {}, .index_name = {}};
}

}  // namespace ckptd::source
