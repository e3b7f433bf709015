#include "daemon/fleet/key_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "tests/unit/http_client/raw_peer.h"

using namespace ckptd;
using testing::TemporaryDirectory;

namespace {

std::string write_key(const TemporaryDirectory& folder, const std::string& content, mode_t mode = 0600) {
  const auto path = folder / "key";
  std::ofstream(path, std::ios::binary) << content;
  ::chmod(path.c_str(), mode);
  return path;
}

}  // namespace

TEST_CASE("the key is the file's content without the newline behind it") {
  TemporaryDirectory folder;
  const auto content = GENERATE("sk-abc", "sk-abc\n", "sk-abc\r\n");
  CHECK(fleet::read_key_file("API key", write_key(folder, content)) == std::string("sk-abc"));
}

TEST_CASE("a group may read a key, everybody may not") {
  TemporaryDirectory folder;
  CHECK(fleet::read_key_file("API key", write_key(folder, "k", 0440)));
  for (const mode_t mode : {0604, 0444, 0777}) {
    const auto key = fleet::read_key_file("API key", write_key(folder, "sk-abc", mode));
    REQUIRE_FALSE(key);
    CHECK(key.error().kind == ErrorKind::denied);
    CHECK(key.error().sentence.find("everybody") != std::string::npos);
    CHECK(key.error().sentence.find("chmod") != std::string::npos);
  }
}

TEST_CASE("what is no key is told by its file, and never by its content") {
  TemporaryDirectory folder;
  const auto content = GENERATE(as<std::string>(), "", "\n", "sk-one\nsk-two\n", "sk one", "sk-\x01", "sk-\xc3\xa9",
                                "sk-abc\n\n", std::string("sk-\0x", 5), std::string(5000, 's'));
  const auto path = write_key(folder, content);
  const auto key = fleet::read_key_file("admin key", path);
  REQUIRE_FALSE(key);
  CHECK(key.error().kind == ErrorKind::denied);
  CHECK(key.error().sentence.find(path) != std::string::npos);
  CHECK(key.error().sentence.find("admin key") != std::string::npos);
  CHECK(key.error().sentence.find("sk-") == std::string::npos);
  CHECK(key.error().vendor.empty());
}

TEST_CASE("a file that is not there, a directory, one that we may not read") {
  TemporaryDirectory folder;
  CHECK(fleet::read_key_file("API key", folder / "none").error().sentence.find("No such file") != std::string::npos);
  CHECK(fleet::read_key_file("API key", "/tmp").error().sentence.find("regular") != std::string::npos);
  CHECK(fleet::read_key_file("API key", "/dev/null").error().kind == ErrorKind::denied);
  if (::geteuid() == 0) return;  // who may read everything
  CHECK(fleet::read_key_file("API key", write_key(folder, "k", 0)).error().sentence.find("0400") != std::string::npos);
}
