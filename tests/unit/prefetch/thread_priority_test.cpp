#include "daemon/prefetch/thread_priority.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

using namespace ckptd::prefetch;

namespace {

// As ioprio_set(2) names them; its header is no C++ in some releases.
constexpr int kWhoProcess = 1, kClassBestEffort = 2, kClassIdle = 3, kClassShift = 13;

struct Seen {
  int nice, io_class, io_level;
  bool operator==(const Seen&) const = default;
};

Seen seen() {
  const auto io = static_cast<int>(::syscall(SYS_ioprio_get, kWhoProcess, 0));
  return {::getpriority(PRIO_PROCESS, 0), io >> kClassShift, io & ((1 << kClassShift) - 1)};
}

Seen after(ThreadPriority first, ThreadPriority then = {}) {
  Seen result{};
  std::thread([&] {
    lower_priority(first);
    lower_priority(then);
    result = seen();
  }).join();
  return result;
}

}  // namespace

TEST_CASE("a thread's priority is lowered, never raised, and no other thread's changes") {
  const auto before = seen();
  CHECK(after({}) == before);
  CHECK(after({.nice = 19}).nice == 19);
  CHECK(after({.nice = 19}, {.nice = 5}).nice == 19);
  CHECK(after({.io = IoPriority::idle}).io_class == kClassIdle);
  CHECK(after({.io = IoPriority::best_effort}) == Seen{before.nice, kClassBestEffort, 7});
  CHECK(after({.io = IoPriority::idle}, {.io = IoPriority::none}).io_class == kClassIdle);
  CHECK(after({.io = IoPriority::idle}, {.io = IoPriority::best_effort}).io_class == kClassIdle);
  CHECK(seen() == before);
}
