// Deadlines, wakers and random names.
#include <poll.h>

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "common/deadline.h"
#include "common/random_name.h"
#include "common/waker.h"

namespace ckptd {
namespace {

using namespace std::chrono_literals;

bool readable(const Waker& waker, int timeout_ms) {
  struct pollfd entry {waker.fd(), POLLIN, 0};
  return ::poll(&entry, 1, timeout_ms) == 1;
}

TEST_CASE("a deadline passes once and for all") {
  CHECK(Deadline(Clock::now() - 1s).passed());
  CHECK(Deadline(Clock::now()).passed());
  CHECK_FALSE(Deadline::in(1h).passed());
}

TEST_CASE("what is left for poll is never negative, never zero too early and never an overflow") {
  CHECK(Deadline(Clock::now() - 1h).poll_timeout_ms() == 0);
  CHECK(Deadline::in(24h).poll_timeout_ms() == 60'000);
  CHECK(Deadline::in(24h * 365 * 50).poll_timeout_ms() == 60'000);
  for (int round = 0; round < 1000; ++round) {
    auto deadline = Deadline::in(300us);
    auto left_ms = deadline.poll_timeout_ms();
    CHECK((left_ms == 1 || deadline.passed()));
  }
}

TEST_CASE("the earlier of two deadlines holds, whichever is asked") {
  Deadline soon = Deadline::in(1s), late = Deadline::in(1h);
  CHECK(soon.earlier(late).at() == soon.at());
  CHECK(late.earlier(soon).at() == soon.at());
}

TEST_CASE("a waker is readable from wake to drain, however often it was woken") {
  auto waker = Waker::create();
  REQUIRE(waker);
  CHECK_FALSE(readable(*waker, 0));
  waker->drain();  // nothing to drain, and no blocking either
  for (int i = 0; i < 1000; ++i) waker->wake();
  CHECK(readable(*waker, 0));
  CHECK(readable(*waker, 0));
  waker->drain();
  CHECK_FALSE(readable(*waker, 0));
}

TEST_CASE("a waker wakes a thread that polls") {
  auto waker = Waker::create();
  REQUIRE(waker);
  bool woken = false;
  std::thread poller([&] { woken = readable(*waker, 60'000); });
  std::vector<std::thread> wakers;
  for (int i = 0; i < 4; ++i) wakers.emplace_back([&] { waker->wake(); });
  for (auto& thread : wakers) thread.join();
  poller.join();
  CHECK(woken);
}

TEST_CASE("random names differ, and use the whole alphabet alone") {
  CHECK(random_name(0).empty());
  CHECK(random_name(100).size() == 100);
  std::set<std::string> names;
  for (int i = 0; i < 1000; ++i) names.insert(random_name(12));
  CHECK(names.size() == 1000);
  std::map<char, int> counts;
  for (char c : random_name(20'000)) ++counts[c];
  CHECK(counts.size() == 36);
  for (const auto& [c, count] : counts) {
    INFO(c);
    CHECK(((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')));
    CHECK(count > 300);  // 555 expected with a deviation of 23: eleven of them
    CHECK(count < 810);
  }
}

}  // namespace
}  // namespace ckptd
