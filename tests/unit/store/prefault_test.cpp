// The budget made ready ahead of its use: that it gets there, gives way, and ends when it should.
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "common/deadline.h"
#include "common/units.h"
#include "daemon/store/admission.h"
#include "daemon/store/store.h"
#include "tests/support/fake_system_root.h"
#include "tests/unit/store/counting_device.h"

using namespace ckptd;
using namespace ckptd::store;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using State = PrefaultStatus::State;

namespace {

struct Setup {
  test::FakeSystemRoot root;
  test::CountingDevice device{"HOST-0"};
  std::unique_ptr<Store> store;

  void start(std::uint64_t segments, std::uint64_t segment_bytes, PrefaultPolicy policy) {
    auto created = Store::create({.budget_bytes = segments * segment_bytes, .segment_bytes = segment_bytes,
                                  .lock = LockPolicy::try_, .prefault = policy, .system_root = root.path()},
                                 {&device});
    REQUIRE(created);
    store = std::move(*created);
  }

  State wait_for_end() const {
    const auto deadline = Deadline::in(60s);
    while (store->prefault().state == State::running && !deadline.passed()) std::this_thread::sleep_for(1ms);
    return store->prefault().state;
  }
};

}  // namespace

TEST_CASE("the whole budget becomes ready, registered once, and loads find it warm") {
  const auto policy = GENERATE(PrefaultPolicy::background, PrefaultPolicy::before_ready);
  Setup setup;
  setup.start(6, 8 * kMiB, policy);
  REQUIRE(setup.wait_for_end() == State::done);
  const auto status = setup.store->prefault();
  CHECK(status.ready_bytes == 48 * kMiB);
  CHECK(status.total_bytes == 48 * kMiB);
  CHECK(status.why.empty());
  const auto usage = setup.store->usage();
  CHECK(usage.idle_bytes == 48 * kMiB);
  CHECK(usage.lent_bytes == 0);
  CHECK(setup.device.registered == 6);
  setup.root.set_memory(kGiB, 0);  // nothing new can be had, and nothing new is needed
  CHECK(setup.store->reserve(6));
  CHECK(setup.device.registrations == 6);
}

TEST_CASE("without prefaulting nothing is touched ahead") {
  Setup setup;
  setup.start(4, 64 * kKiB, PrefaultPolicy::off);
  CHECK(setup.store->prefault().state == State::off);
  CHECK(setup.store->prefault().ready_bytes == 0);
  CHECK(setup.device.registrations == 0);
}

TEST_CASE("memory that cannot be had ends it with the sentence, and the store goes on") {
  Setup setup;
  setup.root.set_memory(kGiB, reserve_below(kGiB) + 4 * kMiB - kKiB);  // not even one segment
  setup.start(4, 4 * kMiB, PrefaultPolicy::before_ready);
  REQUIRE(setup.wait_for_end() == State::ended);
  const auto status = setup.store->prefault();
  CHECK(status.ready_bytes == 0);
  CHECK_THAT(status.why, Contains("this machine"));
  setup.root.set_memory(kGiB, kGiB);
  CHECK(setup.store->reserve(4));
}

TEST_CASE("a device that refuses ends it, and what it had begun is given back") {
  Setup setup;
  setup.device.fail_after = 2;
  setup.start(4, 4 * kMiB, PrefaultPolicy::background);
  REQUIRE(setup.wait_for_end() == State::ended);
  CHECK_THAT(setup.store->prefault().why, Contains("out of registrations"));
  CHECK(setup.store->usage().idle_bytes == 8 * kMiB);
  setup.device.fail_after = 1000;
  CHECK(setup.store->reserve(4));
}

TEST_CASE("a trim ends it, and it does not come back") {
  Setup setup;
  setup.start(256, 4 * kMiB, PrefaultPolicy::background);
  setup.store->trim();  // in the middle, unless the machine is very fast
  const auto state = setup.store->prefault().state;
  CHECK((state == State::ended || state == State::done));
  CHECK(setup.store->usage().idle_bytes == 0);
  CHECK(setup.store->prefault().ready_bytes == 0);
  CHECK(setup.device.registered == 0);
  if (state == State::ended) CHECK_THAT(setup.store->prefault().why, Contains("trim"));
  CHECK(setup.store->reserve(2));
}

TEST_CASE("a store ends in the middle of its prefaulting") {
  Setup setup;
  setup.start(1024, 4 * kMiB, PrefaultPolicy::background);
  setup.store.reset();
  CHECK(setup.device.registered == 0);
}

TEST_CASE("reservations and prefaulting at once: nobody is refused what the budget holds, nothing is made twice") {
  constexpr std::uint64_t kBudget = 24, kSegment = 2 * kMiB;
  Setup setup;
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  setup.start(kBudget, kSegment, PrefaultPolicy::background);
  std::atomic<int> refused = 0, torn = 0;
  auto borrow = [&](unsigned number) {
    std::mt19937 random(seed + number);
    for (int round = 0; round < 25; ++round) {
      std::stop_source stop;
      if (random() % 4 == 0) stop.request_stop();
      auto reservation = setup.store->reserve(1 + random() % (kBudget / 4), stop.get_token());
      if (!reservation) {
        refused += reservation.error().kind != ErrorKind::cancelled;
        continue;
      }
      for (const auto* segment : reservation->segments()) segment->memory.back() = static_cast<std::byte>(number);
      for (const auto* segment : reservation->segments())
        torn += segment->memory.back() != static_cast<std::byte>(number);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(borrow, i);
  }
  CHECK(refused == 0);
  CHECK(torn == 0);
  REQUIRE(setup.wait_for_end() == State::done);
  const auto usage = setup.store->usage();
  CHECK(usage.ready_bytes == kBudget * kSegment);
  CHECK(usage.idle_bytes == kBudget * kSegment);
  CHECK(setup.device.registered == kBudget);
}

TEST_CASE("a reservation that needs the segment under way takes it over") {
  Setup setup;
  setup.start(1, 256 * kMiB, PrefaultPolicy::background);
  const auto deadline = Deadline::in(60s);
  while (setup.store->prefault().state == State::running && !deadline.passed()) {
    auto reservation = setup.store->reserve(1);
    REQUIRE(reservation);
    CHECK(reservation->bytes() == 256 * kMiB);
  }
  CHECK(setup.device.registrations == 1);
  CHECK(setup.store->prefault().state == State::done);
}

TEST_CASE("room is made when a reservation does not fit, and only then") {
  Setup setup;
  setup.start(4, 64 * kKiB, PrefaultPolicy::off);
  std::vector<Reservation> held;
  for (int i = 0; i < 4; ++i) held.push_back(std::move(*setup.store->reserve(1)));
  std::vector<std::uint64_t> asked;
  const auto make_room = [&](std::uint64_t missing, const Error& refusal) -> Result<> {
    asked.push_back(missing);
    CHECK(refusal.kind == ErrorKind::no_space);
    if (held.size() < missing) return std::unexpected(refusal);
    for (; missing > 0; --missing) held.pop_back();
    return {};
  };
  SECTION("as much as is missing") {
    auto got = setup.store->reserve(3, {}, {}, make_room);
    REQUIRE(got);
    CHECK(asked == std::vector<std::uint64_t>{3});
    held.clear();
    CHECK(setup.store->reserve(1, {}, {}, make_room));
    CHECK(asked.size() == 1);
  }
  SECTION("never for what no eviction can help") {
    CHECK_FALSE(setup.store->reserve(5, {}, {}, make_room));
    CHECK(asked.empty());
  }
  SECTION("also when the machine, not the budget, has no more") {
    held.resize(2);
    setup.store->trim();
    setup.root.set_memory(kGiB, reserve_below(kGiB));
    auto got = setup.store->reserve(1, {}, {}, make_room);
    REQUIRE(got);
    CHECK(asked == std::vector<std::uint64_t>{1});
    CHECK(held.size() == 1);
  }
  SECTION("an answer that frees nothing is not believed for ever") {
    CHECK_FALSE(setup.store->reserve(1, {}, {}, [](std::uint64_t, const Error&) { return Result<>(); }));
  }
}
