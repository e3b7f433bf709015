#include "common/every.h"

#include <atomic>
#include <catch2/catch.hpp>

#include "tests/support/few_threads.h"

using namespace ckptd;
using namespace std::chrono_literals;

TEST_CASE("what is called again and again is called at once, then in its interval, and at the end") {
  std::atomic<int> calls = 0;
  {
    Every every(1ms, [&] { ++calls; });
    while (calls < 3) std::this_thread::sleep_for(1ms);
  }
  const int at_the_end = calls;
  CHECK(at_the_end >= 4);
  std::this_thread::sleep_for(10ms);
  CHECK(calls == at_the_end);
}

TEST_CASE("the end does not wait for the interval") {
  std::atomic<int> calls = 0;
  {
    Every every(1h, [&] { ++calls; });
    while (calls < 1) std::this_thread::sleep_for(1ms);
  }
  CHECK(calls == 2);
}

TEST_CASE("where no thread can be had, what is called again and again is called at the end") {
  const auto called = tests::with_few_threads(0, [] {
    int calls = 0;
    {
      Every every(1ms, [&] { ++calls; });
      if (calls != 0) return 100;
    }
    return calls;
  });
  if (!called) {
    WARN("skipped: this takes root, and no ThreadSanitizer");
    return;
  }
  CHECK(*called == 1);
}
