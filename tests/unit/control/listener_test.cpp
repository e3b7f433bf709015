#include "daemon/control/listener.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/unit/http_client/raw_peer.h"

using namespace ckptd;
using control::Listener;
using testing::TemporaryDirectory;

namespace {

mode_t mode_of(const std::string& path) {
  struct stat file {};
  return ::lstat(path.c_str(), &file) == 0 ? file.st_mode & 07777 : 0;
}

bool exists(const std::string& path) {
  struct stat file {};
  return ::lstat(path.c_str(), &file) == 0;
}

/// What a daemon that was killed leaves behind.
void leave_stale_socket(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
}

bool names(const Error& error, const std::string& culprit) {
  return error.sentence.find(culprit) != std::string::npos;
}

}  // namespace

TEST_CASE("the socket has mode 0660 under any umask, and goes away with its owner") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  for (mode_t mask : {0, 022, 077, 0777}) {
    auto before = ::umask(mask);
    auto listener = Listener::create(path, "");
    ::umask(before);
    REQUIRE(listener);
    CHECK(mode_of(path) == 0660);
  }
  CHECK_FALSE(exists(path));
}

TEST_CASE("a dead daemon's socket is replaced, a living one's is not") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  leave_stale_socket(path);
  auto listener = Listener::create(path, "");
  REQUIRE(listener);
  auto second = Listener::create(path, "");
  REQUIRE_FALSE(second);
  CHECK(second.error().kind == ErrorKind::unavailable);
  CHECK(names(second.error(), path));
  CHECK(names(second.error(), std::to_string(::getpid())));
  CHECK(exists(path));
}

TEST_CASE("a living daemon with a full backlog is not waited for") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  leave_stale_socket(path);
  ::unlink(path.c_str());
  UniqueFd stuck(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(stuck.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(stuck.get(), 0) == 0);
  for (int i = 0; i < 4; ++i) {
    auto refused = Listener::create(path, "");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::unavailable);
  }
}

TEST_CASE("what is no socket is left alone") {
  TemporaryDirectory directory;
  auto file = directory / "precious.txt", link = directory / "link";
  std::ofstream(file) << "precious";
  leave_stale_socket(directory / "stale");
  std::filesystem::create_symlink(directory / "stale", link);
  for (const auto& path : {file, link}) {
    auto refused = Listener::create(path, "");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::conflict);
    CHECK(names(refused.error(), path));
    CHECK(exists(path));
  }
}

TEST_CASE("paths that cannot be: too long, without a directory, empty") {
  TemporaryDirectory directory;
  std::string prefix = directory / "";
  CHECK(Listener::create(prefix + std::string(107 - prefix.size(), 'x'), ""));
  auto long_one = Listener::create(prefix + std::string(108 - prefix.size(), 'x'), "");
  REQUIRE_FALSE(long_one);
  CHECK(long_one.error().kind == ErrorKind::invalid_argument);
  CHECK(names(long_one.error(), "108"));
  CHECK(names(long_one.error(), "107"));
  auto lost = Listener::create(directory / "none/control.sock", "");
  REQUIRE_FALSE(lost);
  CHECK(lost.error().kind == ErrorKind::not_found);
  CHECK(names(lost.error(), "none"));
  CHECK_FALSE(Listener::create("", ""));
}

TEST_CASE("the group, by number and by name") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  auto own = ::getegid();
  {
    auto by_number = Listener::create(path, std::to_string(own));
    REQUIRE(by_number);
    CHECK(mode_of(path) == 0660);
  }
  if (auto* entry = ::getgrgid(own); entry != nullptr) CHECK(Listener::create(path, entry->gr_name));
  auto unknown = Listener::create(path, "no-such-group-here");
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().kind == ErrorKind::invalid_argument);
  CHECK(names(unknown.error(), "no-such-group-here"));
  CHECK_FALSE(exists(path));
}

TEST_CASE("a file that has taken the socket's place is not removed") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  {
    auto listener = Listener::create(path, "");
    REQUIRE(listener);
    ::unlink(path.c_str());
    leave_stale_socket(path);
  }
  CHECK(exists(path));
}

TEST_CASE("of daemons that start at once exactly one gets the socket") {
  TemporaryDirectory directory;
  auto path = directory / "control.sock";
  for (int round = 0; round < 20; ++round) {
    leave_stale_socket(path);
    std::vector<std::optional<Result<Listener>>> outcomes(4);
    std::vector<std::thread> daemons;
    for (auto& outcome : outcomes) daemons.emplace_back([&] { outcome.emplace(Listener::create(path, "")); });
    for (auto& daemon : daemons) daemon.join();
    int winners = 0;
    for (auto& outcome : outcomes) winners += outcome->has_value() ? 1 : 0;
    CHECK(winners == 1);
    CHECK(exists(path));
    outcomes.clear();
    CHECK_FALSE(exists(path));
  }
}
