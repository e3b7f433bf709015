#include "daemon/source/uri.h"

#include "tests/support/checkpoint_files/folder.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

namespace fs = std::filesystem;
using tests::Folder;

TEST_CASE("a URI becomes a path") {
  const std::pair<std::string, std::string> rows[] = {
      {"/data/llama", "/data/llama"},
      {"/", "/"},
      {"/a%20b?#", "/a%20b?#"},  // a path is no URI
      {"file:///data/llama", "/data/llama"},
      {"file:///a%20b", "/a b"},
      {"file:///%e6%9D%83", "/\xe6\x9d\x83"},
      {"file:///100%25", "/100%"},
      {"file:///a%2Fb", "/a/b"},
      {"file:///a+b&c=d;e@f:g", "/a+b&c=d;e@f:g"},
      {"file:///%3Fx%23", "/?x#"},
  };
  for (const auto& [uri, path] : rows) {
    INFO(uri);
    CHECK(must(parse_uri(uri)) == path);
  }
}

TEST_CASE("what is no URI of a local file is refused and named") {
  const std::pair<std::string, ErrorKind> rows[] = {
      {"", ErrorKind::invalid_argument},
      {"data/llama", ErrorKind::invalid_argument},
      {"./x", ErrorKind::invalid_argument},
      {"~/x", ErrorKind::invalid_argument},
      {"file:/data", ErrorKind::invalid_argument},
      {"file://", ErrorKind::invalid_argument},
      {"file://host/data", ErrorKind::invalid_argument},
      {"file:///a%", ErrorKind::invalid_argument},
      {"file:///a%2", ErrorKind::invalid_argument},
      {"file:///a%zz", ErrorKind::invalid_argument},
      {"file:///a%-1", ErrorKind::invalid_argument},
      {"file:///a% 1", ErrorKind::invalid_argument},
      {"file:///a%2x", ErrorKind::invalid_argument},
      {"file:///a?revision=1", ErrorKind::invalid_argument},
      {"file:///a#b", ErrorKind::invalid_argument},
      {"file:///a%00b", ErrorKind::invalid_argument},
      {"file:///a%ff", ErrorKind::invalid_argument},
      {"s3://bucket/key", ErrorKind::unsupported},
      {"https://host/x.safetensors", ErrorKind::unsupported},
      {"FILE:///x", ErrorKind::unsupported},
  };
  for (const auto& [uri, kind] : rows) {
    INFO(uri);
    check_error(parse_uri(uri), kind, {uri});
  }
  check_error(parse_uri(std::string("/a\0b", 4)), ErrorKind::invalid_argument, {"a\\x00b"});
  check_error(parse_uri("/" + std::string(5000, 'a')), ErrorKind::invalid_argument, {"/aaa"});
}

TEST_CASE("roots contain whole names of directories") {
  Folder folder;
  fs::create_directories(folder / "models/llama");
  fs::create_directories(folder / "models-private");
  fs::create_directory_symlink(folder / "models", folder / "link");
  const Roots roots({folder / "models"});
  CHECK(roots.limited());
  CHECK(roots.admit(folder / "models", "x"));
  CHECK(roots.admit(folder / "models/llama", "x"));
  CHECK(roots.admit(folder / "models/not/there", "x"));
  check_error(roots.admit(folder / "models-private", "named-so"), ErrorKind::denied, {"named-so"});
  check_error(roots.admit(folder.path(), "x"), ErrorKind::denied, {"x"});
  check_error(roots.admit("/", "x"), ErrorKind::denied, {});
  check_error(roots.admit("(unreachable)/models", "x"), ErrorKind::denied, {});
  CHECK(Roots({folder / "link"}).admit(folder / "models/llama", "x"));
  CHECK(Roots({folder / "elsewhere", folder / "models"}).admit(folder / "models/llama", "x"));
  CHECK(Roots({"/"}).admit(folder / "models", "x"));
}

TEST_CASE("no root allows everything, a root that is not there allows nothing") {
  Folder folder;
  CHECK_FALSE(Roots().limited());
  CHECK_FALSE(Roots(std::vector<fs::path>{}).limited());
  CHECK(Roots().admit("/etc", "x"));
  const Roots gone({folder / "not-there"});
  CHECK(gone.limited());
  check_error(gone.admit(folder / "not-there", "x"), ErrorKind::denied, {});
  check_error(gone.admit("/", "x"), ErrorKind::denied, {});
}

}  // namespace
}  // namespace ckptd::source
