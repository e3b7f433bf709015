#include "common/process.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fcntl.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

using namespace ckptd;
using namespace std::chrono_literals;

namespace {

/// A child that waits to be killed. With `first_thread_ends` its first thread has ended and another goes on.
class Child {
 public:
  explicit Child(bool first_thread_ends = false) {
    std::array<int, 2> ready{};
    REQUIRE(::pipe(ready.data()) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      if (first_thread_ends) {
        std::thread([fd = ready[1]] {
          std::this_thread::sleep_for(20ms);
          (void)!::write(fd, "r", 1);
          for (;;) ::pause();
        }).detach();
        ::syscall(SYS_exit, 0);  // of this thread; pthread_exit would unwind the test
      }
      (void)!::write(ready[1], "r", 1);
      for (;;) ::pause();
    }
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Child() {
    kill();
    reap();
  }
  pid_t pid() const { return pid_; }
  void kill() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);  // -1 would be everybody
  }
  void reap() {
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

bool goes_within(const ProcessId& process, std::chrono::milliseconds patience) {
  for (const auto end = std::chrono::steady_clock::now() + patience; std::chrono::steady_clock::now() < end;) {
    if (is_gone(process)) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

}  // namespace

TEST_CASE("a process is there until it is killed, and gone whether or not it was reaped") {
  Child child;
  const auto process = process_with(child.pid());
  CHECK(process.pid == child.pid());
  CHECK(process.started > 0);
  CHECK_FALSE(is_gone(process));
  const auto pid = child.pid();
  child.kill();
  CHECK(goes_within(process, 10s));  // a zombie: its memory is given up
  child.reap();
  CHECK(is_gone(process));
  CHECK(process_with(pid).started == 0);
}

TEST_CASE("a number that was given again is another process") {
  auto earlier = process_with(::getpid());
  REQUIRE_FALSE(is_gone(earlier));
  --earlier.started;
  CHECK(is_gone(earlier));
}

TEST_CASE("what is not known is not gone") {
  CHECK_FALSE(is_gone({}));                                       // of another pid namespace
  CHECK_FALSE(is_gone({.pid = ::getpid(), .started = 0}));        // a start that was not told
  CHECK_FALSE(is_gone({.pid = ::getppid(), .started = 0}));
  CHECK(is_gone({.pid = 0x3fffffff, .started = 0}));              // above what any kernel gives
}

#if !defined(__SANITIZE_THREAD__)  // its runtime does not survive the end of a forked first thread
TEST_CASE("a process whose first thread has ended still holds its memory") {
  Child child(true);
  const auto process = process_with(child.pid());
  CHECK_FALSE(is_gone(process));
  child.kill();
  CHECK(goes_within(process, 10s));
}
#endif

TEST_CASE("what a process has open is seen by its path") {
  const int fd = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(has_open(process_with(::getpid()), "/dev/zer"));
  ::close(fd);
  CHECK_FALSE(has_open(process_with(::getpid()), "/dev/zer"));
  CHECK_FALSE(has_open({.pid = 12, .started = 3}, "/dev/zer", "/nowhere"));
}

TEST_CASE("the family of a process is itself and what it started") {
  Child child;
  const auto ours = with_descendants(process_with(::getpid()));
  CHECK(ours.front().pid == ::getpid());
  CHECK(std::ranges::find(ours, process_with(child.pid())) != ours.end());
  const auto childs = with_descendants(process_with(child.pid()));
  CHECK(childs == std::vector{process_with(child.pid())});
  CHECK(with_descendants({.pid = 12, .started = 3}, "/nowhere").size() == 1);
  CHECK(with_descendants({.pid = 0, .started = 3}).size() == 1);  // of whom only a socket is known
}

TEST_CASE("what a process was started with") {
  const auto self = process_with(::getpid());
  REQUIRE(std::getenv("PATH") != nullptr);
  CHECK(variable_of(self, "PATH") == std::getenv("PATH"));
  CHECK_FALSE(variable_of(self, "PAT"));
  CHECK_FALSE(variable_of(self, "CKPTD_NO_SUCH_VARIABLE"));
  CHECK_FALSE(variable_of({.pid = 0, .started = 3}, "PATH"));
}
