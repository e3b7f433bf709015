#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "daemon/ranks/checkpoint_engine/endpoints.h"
#include "tests/contract/session/harness.h"

namespace ckptd::test {
namespace {

using ranks::checkpoint_engine::make_endpoints;
using ranks::checkpoint_engine::Options;

struct stat look_at(const std::filesystem::path& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) FAIL("no such file: " << path);
  return info;
}

}  // namespace

TEST_CASE("the directory and its sockets are for the daemon and the group alone") {
  TemporaryDirectory directory;
  auto inside = directory.path() / "r";
  auto old_umask = ::umask(0);
  auto endpoints = make_endpoints({.directory = inside, .rank_group = std::to_string(::getegid())});
  REQUIRE(endpoints);
  auto session = *(*endpoints)->open("e", "d");
  ::umask(old_umask);
  CHECK((look_at(inside).st_mode & 07777) == 0750);
  CHECK(look_at(inside).st_gid == ::getegid());
  auto socket = look_at(session->endpoint().substr(6));
  CHECK(S_ISSOCK(socket.st_mode));
  CHECK((socket.st_mode & 07777) == 0660);
  CHECK(socket.st_gid == ::getegid());
}

TEST_CASE("a group is given by name or number") {
  if (::geteuid() != 0) return;  // nobody else may give files away
  TemporaryDirectory directory;
  auto* daemon_group = ::getgrnam("daemon");
  REQUIRE(daemon_group);
  auto group = GENERATE_COPY(std::string("daemon"), std::to_string(daemon_group->gr_gid));
  auto endpoints = make_endpoints({.directory = directory.path() / "r", .rank_group = group});
  REQUIRE(endpoints);
  auto session = *(*endpoints)->open("e", "d");
  CHECK(look_at(directory.path() / "r").st_gid == daemon_group->gr_gid);
  CHECK(look_at(session->endpoint().substr(6)).st_gid == daemon_group->gr_gid);
}

TEST_CASE("an unknown group is an error that names it") {
  TemporaryDirectory directory;
  auto endpoints = make_endpoints({.directory = directory.path() / "r", .rank_group = "no-such-group"});
  REQUIRE_FALSE(endpoints);
  CHECK(endpoints.error().kind == ErrorKind::invalid_argument);
  CHECK(mentions(endpoints.error(), "no-such-group"));
}

TEST_CASE("a path of 107 bytes works and one of 108 is refused with the numbers") {
  TemporaryDirectory directory;
  auto fits = 107 - 11 - directory.path().native().size() - 1;  // "/" and ten characters, "/" and the name
  auto longest = directory.path() / std::string(fits, 'x');
  auto endpoints = make_backend(longest);
  auto session = *endpoints->open("e", "d");
  CHECK(session->endpoint().size() - 6 == 107);
  RankThread rank(session->endpoint());
  Memory memory;
  CHECK(walk(*session, memory, Reached::finished));

  auto refused = make_endpoints({.directory = longest.native() + "y", .rank_group = ""});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::invalid_argument);
  CHECK(mentions(refused.error(), "108"));
  CHECK(mentions(refused.error(), "107"));
  CHECK(mentions(refused.error(), "--runtime-dir"));
  CHECK_FALSE(std::filesystem::exists(longest.native() + "y"));
}

TEST_CASE("links, files and other people's directories are refused") {
  TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path() / "real");
  std::filesystem::create_directory_symlink(directory.path() / "real", directory.path() / "link");
  auto linked = make_endpoints({.directory = directory.path() / "link", .rank_group = ""});
  REQUIRE_FALSE(linked);
  CHECK(linked.error().kind == ErrorKind::denied);
  CHECK(mentions(linked.error(), "link"));

  auto missing_parent = make_endpoints({.directory = directory.path() / "no" / "such", .rank_group = ""});
  REQUIRE_FALSE(missing_parent);
  CHECK(mentions(missing_parent.error(), "no/such"));

  if (::geteuid() != 0) return;
  REQUIRE(::chown((directory.path() / "real").c_str(), 12345, 12345) == 0);
  auto foreign = make_endpoints({.directory = directory.path() / "real", .rank_group = ""});
  REQUIRE_FALSE(foreign);
  CHECK(foreign.error().kind == ErrorKind::denied);
  CHECK(mentions(foreign.error(), "12345"));
}

TEST_CASE("an existing directory of ours is made tight") {
  TemporaryDirectory directory;
  auto inside = directory.path() / "r";
  std::filesystem::create_directory(inside);
  std::filesystem::permissions(inside, std::filesystem::perms::all);
  auto endpoints = make_backend(inside);
  CHECK((look_at(inside).st_mode & 07777) == 0750);
}

}  // namespace ckptd::test
