#include "daemon/source/index.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "daemon/source/json_text.h"

namespace ckptd::source {
namespace {

using simdjson::dom::object;

/// A shard must not lead out of the directory: it is a name there, never a path.
bool is_plain_file_name(std::string_view name) {
  constexpr std::size_t kNameLimitBytes = 255;
  return !name.empty() && name.size() <= kNameLimitBytes && name != "." && name != ".." && is_utf8(name) &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

Result<object> weight_map_of(object members) {
  std::vector<std::string_view> keys;
  object map;
  bool found = false;
  for (auto [key, value] : members) {
    keys.push_back(key);
    if (key != "weight_map") continue;
    found = true;
    if (value.get(map) != simdjson::SUCCESS) return fail(ErrorKind::corrupt, "weight_map is not an object");
  }
  if (auto twice = repeated(std::move(keys)))
    return fail(ErrorKind::corrupt, "the key '{}' stands there twice", shown(*twice));
  if (!found) return fail(ErrorKind::corrupt, "it has no weight_map");
  return map;
}

std::string file_name(const weights::Manifest& manifest, const weights::Tensor& tensor) {
  return std::filesystem::path(manifest.files[tensor.extent.file].path).filename().string();
}

std::vector<const weights::Tensor*> by_name(const weights::Manifest& manifest) {
  std::vector<const weights::Tensor*> order;
  for (const auto& tensor : manifest.tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const weights::Tensor* tensor) -> const std::string& { return tensor->name; });
  return order;
}

}  // namespace

std::vector<std::string> Index::shards() const {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.push_back(entry.shard);
  std::ranges::sort(names);
  auto rest = std::ranges::unique(names);
  names.erase(rest.begin(), rest.end());
  return names;
}

Result<Index> parse_index(std::span<const std::byte> text) {
  simdjson::dom::parser parser;
  const auto root = CKPTD_TRY(parse_json(parser, text, 0));
  object members;
  if (root.get(members) != simdjson::SUCCESS) return fail(ErrorKind::corrupt, "it is not a JSON object");
  const auto weight_map = CKPTD_TRY(weight_map_of(members));
  Index index;
  for (auto [tensor, value] : weight_map) {
    std::string_view shard;
    if (value.get(shard) != simdjson::SUCCESS)
      return fail(ErrorKind::corrupt, "weight_map: the shard of tensor {} is not a string", shown(tensor));
    if (!is_plain_file_name(shard))
      return fail(ErrorKind::corrupt,
                  "weight_map: tensor {} is said to lie in '{}', which is not the name of a file beside the index",
                  shown(tensor), shown(shard));
    index.entries.push_back({std::string(tensor), std::string(shard)});
  }
  if (index.entries.empty()) return fail(ErrorKind::corrupt, "its weight_map lists no tensor");
  std::ranges::sort(index.entries, {}, &Index::Entry::tensor);
  auto twice = std::ranges::adjacent_find(index.entries, {}, &Index::Entry::tensor);
  if (twice != index.entries.end())
    return fail(ErrorKind::corrupt, "weight_map has the key '{}' twice", shown(twice->tensor));
  return index;
}

Result<> check_defined_once(const weights::Manifest& manifest) {
  const auto order = by_name(manifest);
  auto twice = std::ranges::adjacent_find(order, {}, [](const weights::Tensor* tensor) -> const std::string& {
    return tensor->name;
  });
  if (twice == order.end()) return {};
  return fail(ErrorKind::corrupt, "tensor {} is defined by two files, {} at byte {} and {} at byte {}",
              shown((*twice)->name), shown(file_name(manifest, *twice[0])), twice[0]->extent.offset,
              shown(file_name(manifest, *twice[1])), twice[1]->extent.offset);
}

Result<> check_agreement(const Index& index, const weights::Manifest& manifest) {
  const auto held = by_name(manifest);
  auto listed = index.entries.begin();
  auto next = held.begin();
  while (listed != index.entries.end() || next != held.end()) {
    const bool only_listed = next == held.end() || (listed != index.entries.end() && listed->tensor < (*next)->name);
    if (only_listed)
      return fail(ErrorKind::corrupt, "tensor {} is listed as one of {}, which does not hold it", shown(listed->tensor),
                  shown(listed->shard));
    const auto holder = file_name(manifest, **next);
    if (listed == index.entries.end() || (*next)->name < listed->tensor)
      return fail(ErrorKind::corrupt, "tensor {} of {} is not listed", shown((*next)->name), shown(holder));
    if (holder != listed->shard)
      return fail(ErrorKind::corrupt, "tensor {} is listed as one of {} and lies in {}", shown(listed->tensor),
                  shown(listed->shard), shown(holder));
    ++listed, ++next;
  }
  return {};
}

}  // namespace ckptd::source
