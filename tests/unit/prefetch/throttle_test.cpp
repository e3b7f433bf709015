#include "daemon/prefetch/throttle.h"

#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "common/units.h"

using namespace ckptd;
using namespace ckptd::prefetch;
using namespace std::chrono_literals;

namespace {

struct Grant {
  Clock::time_point at;
  std::uint64_t bytes;
};

/// What was granted within `span` from `begin` on.
std::uint64_t granted(const std::vector<Grant>& grants, Clock::time_point begin, Clock::duration span) {
  std::uint64_t bytes = 0;
  for (const auto& grant : grants)
    if (grant.at >= begin && grant.at < begin + span) bytes += grant.bytes;
  return bytes;
}

}  // namespace

TEST_CASE("no span of time sees more than its share of the budget and one booking") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  const std::uint64_t rate = 1 + random() % 10'000'000'000;
  Throttle throttle(rate);
  const std::uint64_t largest = 1 + random() % kGiB;
  std::vector<Grant> grants;
  auto now = Clock::time_point(1h);
  for (int i = 0; i < 300; ++i) {
    const auto bytes = 1 + random() % largest;
    const auto at = throttle.book(bytes, now);
    REQUIRE(at >= now);
    if (!grants.empty()) REQUIRE(at >= grants.back().at);
    grants.push_back({at, bytes});
    // Some callers wait for their turn, some are late, and several book at the same time.
    if (random() % 3 == 0) now = at;
    if (random() % 10 == 0) now += std::chrono::nanoseconds(random() % 10'000'000'000);
  }
  std::size_t broken = 0;
  for (const auto& first : grants)
    for (auto span : {Clock::duration(1ms), Clock::duration(1s), Clock::duration(1min)}) {
      const auto budget = static_cast<double>(rate) * std::chrono::duration<double>(span).count();
      // Each booking is rounded to a nanosecond.
      const auto slack = static_cast<double>(largest) + 300e-9 * static_cast<double>(rate);
      broken += static_cast<double>(granted(grants, first.at, span)) > budget + slack;
    }
  CHECK(broken == 0);
}

TEST_CASE("who books again as soon as it may gets the whole budget") {
  Throttle throttle(100 * kMiB);
  const auto start = Clock::time_point(1h);
  auto now = start;
  for (int i = 0; i < 1000; ++i) now = throttle.book(kMiB, now);
  CHECK(now - start == std::chrono::nanoseconds(999 * 10'000'000LL));
}

TEST_CASE("time that nobody used is lost") {
  Throttle throttle(kMiB);
  auto now = throttle.book(kMiB, Clock::time_point(1h)) + 24h;
  CHECK(throttle.book(kMiB, now) == now);
  CHECK(throttle.book(kMiB, now) == now + 1s);
}

TEST_CASE("without a limit everything may be read at once") {
  Throttle throttle(0);
  const auto now = Clock::time_point(1h);
  for (int i = 0; i < 100; ++i) CHECK(throttle.book(kGiB, now) == now);
  CHECK(throttle.even(kGiB) == kGiB);
}

TEST_CASE("a small budget is spent in small reads") {
  CHECK(Throttle(kGiB).even(8 * kMiB) == 8 * kMiB);
  CHECK(Throttle(20 * kMiB).even(8 * kMiB) == kMiB);
  CHECK(Throttle(kMiB).even(8 * kMiB) == 64 * kKiB);
  CHECK(Throttle(kMiB).even(4 * kKiB) == 4 * kKiB);
}
