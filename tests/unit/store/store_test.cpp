#include "daemon/store/store.h"

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "common/units.h"
#include "daemon/store/admission.h"
#include "common/host_memory.h"
#include "tests/unit/store/counting_device.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using namespace ckptd::store;
using Catch::Matchers::Contains;
using ckptd::test::CountingDevice;
using ckptd::test::FakeSystemRoot;

namespace {

constexpr std::uint64_t kSegment = 16 * kKiB;

/// A store of tiny segments on a machine without limits.
struct Setup {
  FakeSystemRoot root;
  CountingDevice first{"HOST-0"}, second{"HOST-1"};
  std::unique_ptr<Store> store;

  explicit Setup(std::uint64_t budget_segments, std::uint64_t segment_bytes = kSegment) {
    Options options{.budget_bytes = budget_segments * segment_bytes, .segment_bytes = segment_bytes,
                    .lock = LockPolicy::off, .system_root = root.path()};
    auto created = Store::create(options, {&first, &second});
    REQUIRE(created);
    store = std::move(*created);
  }
};

ErrorKind kind_of_creating(const Options& options) {
  auto created = Store::create(options, {});
  REQUIRE_FALSE(created);
  INFO(created.error().sentence);
  return created.error().kind;
}

std::string name_of_memfd(int fd) { return std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd)); }

std::set<std::uint32_t> numbers(const Reservation& reservation) {
  std::set<std::uint32_t> numbers;
  for (const auto* segment : reservation.segments()) numbers.insert(segment->number);
  return numbers;
}

}  // namespace

TEST_CASE("segments are 1 GiB, smaller under small budgets") {
  CHECK(default_segment_bytes(0) == 2 * kMiB);
  CHECK(default_segment_bytes(1) == 2 * kMiB);
  CHECK(default_segment_bytes(256 * kMiB - 1) == 2 * kMiB);
  CHECK(default_segment_bytes(256 * kMiB) == 4 * kMiB);
  CHECK(default_segment_bytes(8 * kGiB) == 128 * kMiB);
  CHECK(default_segment_bytes(9 * kGiB) == 128 * kMiB);
  CHECK(default_segment_bytes(64 * kGiB - 1) == 512 * kMiB);
  CHECK(default_segment_bytes(64 * kGiB) == kGiB);
  CHECK(default_segment_bytes(std::uint64_t{1} << 45) == kGiB);
}

TEST_CASE("what cannot work is refused when the store is created") {
  FakeSystemRoot root;
  root.set_memory(kGiB, kGiB);
  Options options{.budget_bytes = kGiB, .segment_bytes = 0, .lock = LockPolicy::off, .system_root = root.path()};
  REQUIRE(Store::create(options, {}));
  auto with = [&](auto change) {
    auto changed = options;
    change(changed);
    return changed;
  };
  CHECK(kind_of_creating(with([](auto& o) { o.budget_bytes = 0; })) == ErrorKind::invalid_argument);
  CHECK(kind_of_creating(with([](auto& o) { o.budget_bytes = 2 * kMiB - 1; })) == ErrorKind::invalid_argument);
  CHECK(kind_of_creating(with([](auto& o) { o.segment_bytes = 4095; })) == ErrorKind::invalid_argument);
  CHECK(kind_of_creating(with([](auto& o) { o.budget_bytes = kGiB + 1; })) == ErrorKind::invalid_argument);

  options.lock = LockPolicy::required;
  root.write("proc/self/limits", "Max locked memory         8388608              8388608              bytes     \n");
  auto refused = Store::create(options, {});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence,
             Contains(show_bytes(8 * kMiB)) && Contains(show_bytes(kGiB)) &&
                 Contains("LimitMEMLOCK") && Contains("--lock try"));
  CHECK(Store::create(with([](auto& o) { o.lock = LockPolicy::try_; }), {}));
  CHECK(Store::create(with([](auto& o) { o.budget_bytes = 8 * kMiB; }), {}));
}

TEST_CASE("the budget is lent to the last segment and not beyond") {
  Setup setup(4);
  auto three = setup.store->reserve(3);
  REQUIRE(three);
  CHECK(three->bytes() == 3 * kSegment);
  auto too_many = setup.store->reserve(2);
  REQUIRE_FALSE(too_many);
  CHECK(too_many.error().kind == ErrorKind::no_space);
  CHECK(setup.store->usage().lent_bytes == 3 * kSegment);
  auto one = setup.store->reserve(1);
  REQUIRE(one);
  CHECK_FALSE(setup.store->reserve(1));
  CHECK(setup.store->reserve(0));
  CHECK(setup.store->usage().lent_bytes == 4 * kSegment);
}

TEST_CASE("a budget that is no multiple of a segment is rounded down") {
  FakeSystemRoot root;
  Options options{.budget_bytes = 2 * kSegment - 1, .segment_bytes = kSegment, .lock = LockPolicy::off,
                  .system_root = root.path()};
  auto store = Store::create(options, {});
  REQUIRE(store);
  CHECK_FALSE((*store)->reserve(2));
  CHECK((*store)->reserve(1));
}

TEST_CASE("segments are memfds of their own, named, sealed, zeroed, writable and registered with every device") {
  Setup setup(3);
  auto reservation = setup.store->reserve(3);
  REQUIRE(reservation);
  CHECK(numbers(*reservation).size() == 3);
  CHECK(setup.first.registered == 3);
  CHECK(setup.second.registered == 3);
  for (const auto* segment : reservation->segments()) {
    CHECK(segment->memory.size() == kSegment);
    CHECK_THAT(name_of_memfd(segment->memfd), Contains(fmt::format("ckptd-segment-{} ", segment->number)));
    CHECK(ftruncate(segment->memfd, 0) != 0);
    CHECK(std::ranges::all_of(segment->memory, [](std::byte byte) { return byte == std::byte{0}; }));
    std::ranges::fill(segment->memory, std::byte{0x5a});
    char last = 0;
    CHECK(pread(segment->memfd, &last, 1, kSegment - 1) == 1);
    CHECK(last == 0x5a);
    CHECK_FALSE(segment->locked);
  }
}

TEST_CASE("what comes back is lent again as it is") {
  Setup setup(4);
  std::set<std::uint32_t> before;
  {
    auto reservation = setup.store->reserve(2);
    REQUIRE(reservation);
    before = numbers(*reservation);
    for (const auto* segment : reservation->segments()) std::ranges::fill(segment->memory, std::byte{7});
  }
  CHECK(setup.store->usage().lent_bytes == 0);
  CHECK(setup.store->usage().idle_bytes == 2 * kSegment);
  CHECK(setup.first.registered == 2);

  auto again = setup.store->reserve(3);
  REQUIRE(again);
  auto now = numbers(*again);
  CHECK(std::ranges::includes(now, before));
  for (const auto* segment : again->segments())
    if (before.contains(segment->number)) CHECK(segment->memory.back() == std::byte{7});
  CHECK(setup.first.registrations == 3);
}

TEST_CASE("only new segments count against free memory") {
  Setup setup(4);
  const auto reserve = reserve_below(kGiB);
  setup.root.set_memory(kGiB, reserve + 2 * kSegment - kKiB);
  auto refused = setup.store->reserve(2);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence, Contains("this machine"));
  CHECK(setup.store->usage().idle_bytes == 0);

  setup.root.set_memory(kGiB, reserve + 2 * kSegment);
  CHECK(setup.store->reserve(2));

  setup.root.set_memory(kGiB, 0);
  auto warm = setup.store->reserve(2);
  CHECK(warm);
  CHECK_FALSE(setup.store->reserve(1));
  setup.root.set_memory(kGiB, reserve + kSegment);
  CHECK(setup.store->reserve(1));  // the refused one left no promise behind
}

TEST_CASE("the control group's limit refuses with its name") {
  Setup setup(4);
  setup.root.set_memory(kGiB, kGiB);
  setup.root.write("proc/self/cgroup", "0::/pod\n");
  setup.root.write("sys/fs/cgroup/pod/memory.max", "536870912\n");
  setup.root.write("sys/fs/cgroup/pod/memory.current", "268435456\n");
  auto refused = setup.store->reserve(1);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence, Contains("/sys/fs/cgroup/pod") && Contains("MemoryMax"));
}

TEST_CASE("trim gives idle segments back and nothing that is lent") {
  Setup setup(5);
  auto kept = setup.store->reserve(2);
  { REQUIRE(setup.store->reserve(3)); }
  CHECK(setup.store->trim() == 3 * kSegment);
  CHECK(setup.store->trim() == 0);
  CHECK(setup.store->usage().idle_bytes == 0);
  CHECK(setup.store->usage().lent_bytes == 2 * kSegment);
  CHECK(setup.first.registered == 2);
  auto fresh = setup.store->reserve(3);
  REQUIRE(fresh);
  for (auto number : numbers(*fresh)) CHECK(number >= 5);  // numbers are never used twice
}

TEST_CASE("a device that is lost keeps no segment from the others") {
  Setup setup(4);
  setup.first.lost = true;
  auto lent = setup.store->reserve(2);
  REQUIRE(lent);
  CHECK(setup.first.registered == 0);
  CHECK(setup.second.registered == 2);
}

TEST_CASE("a store that goes unregisters and closes everything") {
  CountingDevice device("HOST-0");
  int memfd = -1;
  {
    FakeSystemRoot root;
    Options options{.budget_bytes = 2 * kSegment, .segment_bytes = kSegment, .lock = LockPolicy::off,
                    .system_root = root.path()};
    auto store = Store::create(options, {&device});
    REQUIRE(store);
    auto reservation = (*store)->reserve(2);
    REQUIRE(reservation);
    memfd = reservation->segments()[0]->memfd;
  }
  CHECK(device.registered == 0);
  CHECK(fcntl(memfd, F_GETFD) == -1);
}

TEST_CASE("segments of one reservation are registered side by side, and stay in their order") {
  Setup setup(8);
  setup.first.together = 3;
  auto lent = setup.store->reserve(6);
  REQUIRE(lent);
  CHECK(setup.first.most_inside >= 3);
  CHECK(setup.first.registered == 6);
  CHECK(setup.second.registered == 6);
  std::vector<std::uint32_t> order;
  for (const auto* segment : lent->segments()) order.push_back(segment->number);
  CHECK(std::ranges::is_sorted(order));
}

TEST_CASE("a registration that fails gives the memory back and names the device") {
  Setup setup(4);
  setup.second.fail_after = 2;
  auto refused = setup.store->reserve(3);
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().sentence, Contains("HOST-1") && Contains("out of registrations"));
  CHECK(setup.first.registered == 0);
  CHECK(setup.second.registered == 0);
  CHECK(setup.store->usage().lent_bytes == 0);
  CHECK(setup.store->usage().idle_bytes == 0);
  setup.second.fail_after = 1000;
  CHECK(setup.store->reserve(4));
}

TEST_CASE("a failed reservation returns the idle segments that it had taken") {
  Setup setup(4);
  { REQUIRE(setup.store->reserve(2)); }
  setup.first.fail_after = 2;
  CHECK_FALSE(setup.store->reserve(3));
  CHECK(setup.store->usage().idle_bytes == 2 * kSegment);
  CHECK(setup.store->reserve(2));
}

TEST_CASE("a cancelled reservation keeps what is ready warm and its place in the budget free") {
  Setup setup(4);
  std::stop_source stop;
  auto cancelled = setup.store->reserve(4, stop.get_token(), [&](std::uint64_t ready) {
    if (ready >= 2 * kSegment) stop.request_stop();
  });
  REQUIRE_FALSE(cancelled);
  CHECK(cancelled.error().kind == ErrorKind::cancelled);
  CHECK(setup.store->usage().lent_bytes == 0);
  CHECK(setup.store->usage().idle_bytes == 2 * kSegment);
  CHECK(setup.store->reserve(4));
}

TEST_CASE("large segments are cancelled in the middle, and progress rises to the end") {
  Setup setup(2, 64 * kMiB);
  std::stop_source stop;
  auto cancelled = setup.store->reserve(1, stop.get_token(), [&](std::uint64_t ready) {
    if (ready > 0) stop.request_stop();
  });
  // The other threads may have touched the rest by then; a stop is a wish, and both ends are right.
  CHECK((cancelled || cancelled.error().kind == ErrorKind::cancelled));
  if (cancelled) *cancelled = Reservation();

  std::vector<std::uint64_t> reports;
  auto reservation = setup.store->reserve(2, {}, [&](std::uint64_t ready) { reports.push_back(ready); });
  REQUIRE(reservation);
  CHECK(std::ranges::is_sorted(reports));
  CHECK(reports.back() == 128 * kMiB);
}

TEST_CASE("reservations move, and each segment goes back once") {
  Setup setup(4);
  auto a = std::move(*setup.store->reserve(1));
  auto b = std::move(*setup.store->reserve(2));
  a = std::move(b);
  CHECK(a.segments().size() == 2);
  CHECK(b.segments().empty());
  CHECK(setup.store->usage().lent_bytes == 2 * kSegment);
  Reservation c(std::move(a));
  CHECK(a.bytes() == 0);
  c = Reservation();
  CHECK(setup.store->usage().lent_bytes == 0);
  CHECK(setup.store->usage().idle_bytes == 3 * kSegment);
}

TEST_CASE("a pool of huge pages that turns out empty is passed over silently, but not past free memory") {
  if (read_free_huge_pages("/") != 0) {
    WARN("skipped: this machine has free huge pages");
    return;
  }
  Setup setup(2, 2 * kMiB);
  setup.root.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1\n");
  {
    auto reservation = setup.store->reserve(2);
    REQUIRE(reservation);
    for (const auto* segment : reservation->segments()) CHECK_FALSE(segment->huge_pages);
    CHECK(setup.store->usage().huge_page_bytes == 0);
  }
  setup.store->trim();
  setup.root.set_memory(kGiB, reserve_below(kGiB) + 2 * kMiB);  // room for one only, the other "is in the pool"
  auto refused = setup.store->reserve(2);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(setup.store->usage().idle_bytes == 0);
  CHECK(setup.store->reserve(1));
}

TEST_CASE("huge pages are used while the machine's pool has them") {
  auto pages = read_free_huge_pages("/");
  if (pages == 0) {
    WARN("skipped: this machine has no free huge pages");
    return;
  }
  auto count = std::min<std::uint64_t>(pages, 4);
  Options options{.budget_bytes = count * 2 * kMiB, .segment_bytes = 2 * kMiB, .lock = LockPolicy::required};
  auto store = Store::create(options, {});
  REQUIRE(store);
  auto reservation = (*store)->reserve(count);
  REQUIRE(reservation);
  CHECK((*store)->usage().huge_page_bytes == count * 2 * kMiB);
  CHECK((*store)->usage().locked_bytes == count * 2 * kMiB);
  for (const auto* segment : reservation->segments()) std::ranges::fill(segment->memory, std::byte{1});
}

TEST_CASE("threads that reserve, return and trim at once never share a segment nor exceed the budget") {
  constexpr std::uint64_t kBudget = 12;
  Setup setup(kBudget);
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::atomic<std::uint64_t> lent = 0;
  std::atomic<int> violations = 0, successes = 0;
  std::atomic<bool> done = false;

  auto borrow = [&](unsigned number) {
    std::mt19937 random(seed + number);
    for (int round = 0; round < 60; ++round) {
      auto reservation = setup.store->reserve(1 + random() % 6);
      if (!reservation) {
        if (reservation.error().kind != ErrorKind::no_space) ++violations;
        continue;
      }
      ++successes;
      auto count = reservation->segments().size();
      if (lent.fetch_add(count) + count > kBudget) ++violations;
      auto mark = static_cast<std::byte>(number + 1);
      for (const auto* segment : reservation->segments()) std::ranges::fill(segment->memory, mark);
      for (const auto* segment : reservation->segments())
        if (std::ranges::count(segment->memory, mark) != static_cast<std::ptrdiff_t>(kSegment)) ++violations;
      lent -= count;
    }
  };
  {
    std::jthread trimmer([&] {
      while (!done) {
        setup.store->trim();
        auto usage = setup.store->usage();
        if (usage.lent_bytes + usage.idle_bytes > usage.budget_bytes) ++violations;
      }
    });
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < 6; ++i) threads.emplace_back(borrow, i);
    }
    done = true;
  }
  CHECK(violations == 0);
  CHECK(successes > 0);
  CHECK(setup.store->usage().lent_bytes == 0);
  CHECK(setup.store->reserve(kBudget));
}
