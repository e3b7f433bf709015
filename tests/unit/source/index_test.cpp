#include "daemon/source/index.h"

#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

Result<Index> parse(std::string_view text) { return parse_index(bytes_of_text(text)); }

TEST_CASE("an index is read, whatever else stands in it") {
  const auto index = must(parse(R"( {"weight_map": {"b": "2.safetensors", "a": "2.safetensors", "c": "1.safetensors"},
      "metadata": {"total_size": 1, "total_size": 2, "deep": [[[{}]]]}, "other": null}
  )"));
  REQUIRE(index.entries.size() == 3);
  CHECK(index.entries[0].tensor == "a");
  CHECK(index.entries[0].shard == "2.safetensors");
  CHECK(index.entries[2].tensor == "c");
  CHECK(index.shards() == std::vector<std::string>{"1.safetensors", "2.safetensors"});
}

TEST_CASE("an index that contradicts itself is refused") {
  struct Row {
    std::string_view text;
    std::vector<std::string> named;
  };
  const Row rows[] = {
      {"", {}},
      {"[]", {"object"}},
      {"null", {"object"}},
      {"{}", {"weight_map"}},
      {"{\"weight_map\": {", {"JSON"}},
      {"{\"weight_map\":{\"a\xff\":\"x\"}}", {"byte 17", "UTF-8"}},
      {R"({"weight_map": {}})", {"weight_map", "no tensor"}},
      {R"({"weight_map": []})", {"weight_map"}},
      {R"({"weight_map": null})", {"weight_map"}},
      {R"({"weight_map": {"a": 1}})", {"tensor a"}},
      {R"({"weight_map": {"a": null}})", {"tensor a"}},
      {R"({"weight_map": {"a": ["x.safetensors"]}})", {"tensor a"}},
      {R"({"weight_map": {"a": "x"}, "weight_map": {"a": "x"}})", {"weight_map", "twice"}},
      {R"({"weight_map": {"a": "x"}, "m": 1, "m": 2})", {"'m'", "twice"}},
      {R"({"weight_map": {"a": "x", "b": "x", "a": "y"}})", {"'a'", "twice"}},
      {R"({"weight_map": {"a": "x", "\u0061": "x"}})", {"'a'", "twice"}},
      {R"({"weight_map": {"a": ""}})", {"tensor a", "''"}},
      {R"({"weight_map": {"a": "."}})", {"tensor a", "'.'"}},
      {R"({"weight_map": {"a": ".."}})", {"tensor a", "'..'"}},
      {R"({"weight_map": {"a": "../x.safetensors"}})", {"tensor a", "../x.safetensors"}},
      {R"({"weight_map": {"a": "sub/x.safetensors"}})", {"tensor a", "sub/x.safetensors"}},
      {R"({"weight_map": {"a": "./x.safetensors"}})", {"tensor a", "./x.safetensors"}},
      {R"({"weight_map": {"a": "x.safetensors/"}})", {"tensor a", "x.safetensors/"}},
      {R"({"weight_map": {"a": "/etc/passwd"}})", {"tensor a", "/etc/passwd"}},
      {R"({"weight_map": {"a": "\u002e\u002e\u002fx"}})", {"tensor a", "../x"}},
      {R"({"weight_map": {"a": "x.safetensors\u0000y"}})", {"tensor a", "x.safetensors\\x00y"}},
  };
  for (const auto& row : rows) {
    INFO(row.text);
    check_error(parse(row.text), ErrorKind::corrupt, row.named);
  }
  check_error(parse(R"({"weight_map":)" + std::string(100'000, '[')), ErrorKind::corrupt, {});
  check_error(parse(R"({"weight_map": {"a": ")" + std::string(300, 'x') + "\"}}"), ErrorKind::corrupt, {"tensor a"});
}

weights::Manifest manifest_of(const std::vector<std::pair<std::string, std::uint32_t>>& tensors) {
  weights::Manifest manifest;
  for (auto path : {"/m/1.safetensors", "/m/2.safetensors"})
    manifest.files.push_back({.path = path, .bytes = 100, .data_begin = 10, .stamp = ""});
  for (const auto& [name, file] : tensors)
    manifest.tensors.push_back(
        {.name = name, .dtype = weights::Dtype::u8, .shape = {1}, .extent = {.file = file, .offset = 33, .bytes = 1}});
  return manifest;
}

TEST_CASE("a tensor stands in one file only") {
  CHECK(check_defined_once(manifest_of({})));
  CHECK(check_defined_once(manifest_of({{"b", 0}, {"a", 1}})));
  check_error(check_defined_once(manifest_of({{"b", 0}, {"a", 0}, {"c", 1}, {"b", 1}})), ErrorKind::corrupt,
              {"tensor b", "1.safetensors", "2.safetensors", "33"});
}

TEST_CASE("an index and its shards agree on every tensor") {
  const auto index = must(parse(R"({"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}})"));
  CHECK(check_agreement(index, manifest_of({{"a", 0}, {"c", 1}})));
  CHECK(check_agreement(index, manifest_of({{"c", 1}, {"a", 0}})));
  struct Row {
    std::vector<std::pair<std::string, std::uint32_t>> held;
    std::vector<std::string> named;
  };
  const Row rows[] = {
      {{}, {"tensor a", "1.safetensors", "does not hold"}},
      {{{"a", 0}}, {"tensor c", "2.safetensors", "does not hold"}},
      {{{"c", 1}}, {"tensor a", "1.safetensors", "does not hold"}},
      {{{"a", 0}, {"b", 1}, {"c", 1}}, {"tensor b", "2.safetensors", "not listed"}},
      {{{"a", 0}, {"c", 1}, {"d", 0}}, {"tensor d", "1.safetensors", "not listed"}},
      {{{"a", 1}, {"c", 1}}, {"tensor a", "1.safetensors", "lies in 2.safetensors"}},
  };
  for (const auto& row : rows)
    check_error(check_agreement(index, manifest_of(row.held)), ErrorKind::corrupt, row.named);
}

}  // namespace
}  // namespace ckptd::source
