#include "daemon/weights/checkpoint_id.h"

#include <catch2/catch.hpp>

namespace ckptd::weights {
namespace {

TEST_CASE("NAME@VERSION is taken apart and put together again") {
  const std::string long_name = std::string(200, 'n') + "/" + std::string(55, 'm'), long_version(128, 'v');
  const std::pair<std::string, std::string> rows[] = {
      {"llama", "1"},           {"Qwen/Qwen3-8B", "step-120"}, {"a/b/c/d", "v1.2_3-4"},    {"...", "..."},
      {"a..b/.c/d.", ".hidden"}, {"-", "_"},                    {long_name, long_version},
  };
  for (const auto& [name, version] : rows) {
    INFO(name << "@" << version);
    const auto id = CheckpointId::parse(name + "@" + version);
    REQUIRE(id);
    CHECK(id->name == name);
    CHECK(id->version == version);
    CHECK(id->show() == name + "@" + version);
    CHECK(CheckpointId::of(name, version).value() == *id);
    CHECK(parse_checkpoint_name(name).value() == name);
  }
}

TEST_CASE("what the grammar excludes is an error that shows it") {
  for (std::string text :
       {"", "@", "llama", "llama@", "@1", "/llama@1", "llama/@1", "a//b@1", ".@1", "..@1", "a/../b@1", "a/./b@1",
        "a/..@1", "llama@.", "llama@..", "llama@1/2", "a@b@1", "a b@1", "llama@1 ", " llama@1", "llama@1\n",
        "ll\xc3\xa4ma@1", "a%2Fb@1", "a\\b@1", "a:b@1", "llama@a:b", "llama@a+b", "~@1"}) {
    INFO(text);
    const auto id = CheckpointId::parse(text);
    REQUIRE_FALSE(id);
    CHECK(id.error().kind == ErrorKind::invalid_argument);
    CHECK_THAT(id.error().sentence, Catch::Contains("'"));
  }
}

TEST_CASE("names and versions have a longest length") {
  CHECK(parse_checkpoint_name(std::string(256, 'a')));
  CHECK_FALSE(parse_checkpoint_name(std::string(257, 'a')));
  CHECK(CheckpointId::of("a", std::string(128, 'a')));
  CHECK_FALSE(CheckpointId::of("a", std::string(129, 'a')));
}

TEST_CASE("NUL is no letter") {
  CHECK_FALSE(parse_checkpoint_name(std::string_view("a\0b", 3)));
  CHECK_FALSE(CheckpointId::of("a", std::string_view("1\0", 2)));
}

TEST_CASE("parts that came apart may not contain the separator") {
  CHECK_FALSE(CheckpointId::of("a@b", "1"));
  CHECK_FALSE(CheckpointId::of("a", "1@2"));
}

}  // namespace
}  // namespace ckptd::weights
