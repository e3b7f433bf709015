// The real library against a socket of our own, as systemd would listen.
#include "daemon/systemd/notifier.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <thread>

#include "common/unique_fd.h"

namespace ckptd::systemd {
namespace {

using namespace std::chrono_literals;

class Manager {
 public:
  explicit Manager(std::chrono::microseconds watchdog) {
    fd_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};  // autobind: an abstract name of the kernel's choice
    REQUIRE(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) == 0);
    socklen_t size = sizeof address;
    REQUIRE(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    auto name = "@" + std::string(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    ::setenv("WATCHDOG_USEC", std::to_string(watchdog.count()).c_str(), 1);
    ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    if (watchdog.count() == 0) ::unsetenv("WATCHDOG_USEC");
  }
  ~Manager() {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) ::unsetenv(name);
  }

  /// What came next, or nothing.
  std::string heard() {
    char text[1024];
    auto got = ::recv(fd_.get(), text, sizeof text, 0);
    return got < 0 ? std::string() : std::string(text, static_cast<std::size_t>(got));
  }

 private:
  UniqueFd fd_;
};

TEST_CASE("without a service manager nothing is due") {
  Notifier notifier;
  CHECK_FALSE(notifier.tick());
  CHECK_FALSE(notifier.watchdog_due());
  notifier.status("x");
  notifier.ready();
}

TEST_CASE("the service manager hears each change of the status once") {
  Manager manager(0us);
  Notifier notifier;
  CHECK(notifier.tick() == 1000ms);
  CHECK_FALSE(notifier.watchdog_due());
  notifier.ready();
  CHECK(manager.heard() == "READY=1");
  notifier.status("serving");
  notifier.status("serving");
  CHECK(manager.heard() == "STATUS=serving");
  CHECK(manager.heard().empty());
}

TEST_CASE("a reload is announced with its time, an end with how long it may take") {
  Manager manager(0us);
  Notifier notifier;
  notifier.reloading();
  CHECK(manager.heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
  notifier.stopping(38s);
  auto end = manager.heard();
  CHECK(end.starts_with("STOPPING=1\n"));
  CHECK(end.ends_with("EXTEND_TIMEOUT_USEC=38000000"));
}

TEST_CASE("signs of life are due well within the watchdog's time, and only when asked for are they sent") {
  Manager manager(800ms);
  const auto before = Clock::now();
  Notifier notifier;
  REQUIRE(notifier.tick());
  CHECK(*notifier.tick() == 100ms);
  const bool is_due = notifier.watchdog_due().has_value();
  if (Clock::now() - before < 100ms) CHECK_FALSE(is_due);
  std::this_thread::sleep_for(150ms);
  auto deadline = notifier.watchdog_due();
  REQUIRE(deadline);
  CHECK(deadline->at() <= Clock::now() + 400ms);
  CHECK(notifier.watchdog_due());  // still due: asking is not answering
  CHECK(manager.heard().empty());
  notifier.alive();
  CHECK(manager.heard() == "WATCHDOG=1");
}

}  // namespace
}  // namespace ckptd::systemd
