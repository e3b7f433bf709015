// Locking for real: RLIMIT_MEMLOCK of this process is lowered and CAP_IPC_LOCK laid down for the time of a test.
#include <catch2/catch.hpp>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "common/files.h"
#include "common/units.h"
#include "daemon/store/store.h"
#include "tests/unit/store/counting_device.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using namespace ckptd::store;
using Catch::Matchers::Contains;
using ckptd::test::CountingDevice;
using ckptd::test::FakeSystemRoot;

namespace {

constexpr std::uint64_t kSegment = 16 * kKiB;

/// This thread may lock `bytes` and no more while this lives. Both the soft limit and an effective capability may be
/// taken up again, so no other process is needed.
class LockAllowance {
 public:
  explicit LockAllowance(std::uint64_t bytes) {
    REQUIRE(getrlimit(RLIMIT_MEMLOCK, &old_limit_) == 0);
    rlimit lower{bytes, old_limit_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_MEMLOCK, &lower) == 0);
    REQUIRE(syscall(SYS_capget, &header_, old_.data()) == 0);
    auto without = old_;
    without[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    REQUIRE(syscall(SYS_capset, &header_, without.data()) == 0);
  }
  ~LockAllowance() {
    syscall(SYS_capset, &header_, old_.data());
    setrlimit(RLIMIT_MEMLOCK, &old_limit_);
  }

 private:
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> old_{};
  rlimit old_limit_{};
};

std::uint64_t locked_by_this_process() {
  auto status = read_small_file("/proc/self/status");
  REQUIRE(status);
  return std::stoull(status->substr(status->find("VmLck:") + 6)) * kKiB;
}

Options options(LockPolicy lock, const std::filesystem::path& root) {
  return {.budget_bytes = 4 * kSegment, .segment_bytes = kSegment, .lock = lock, .system_root = root};
}

}  // namespace

TEST_CASE("required locks every segment, and trim unlocks") {
  LockAllowance allowance(locked_by_this_process() + 4 * kSegment);
  auto before = locked_by_this_process();
  auto store = Store::create(options(LockPolicy::required, "/"), {});
  REQUIRE(store);
  {
    auto reservation = (*store)->reserve(3);
    REQUIRE(reservation);
    for (const auto* segment : reservation->segments()) CHECK(segment->locked);
    CHECK(locked_by_this_process() == before + 3 * kSegment);
    CHECK((*store)->usage().locked_bytes == 3 * kSegment);
  }
  CHECK(locked_by_this_process() == before + 3 * kSegment);
  (*store)->trim();
  CHECK(locked_by_this_process() == before);
}

TEST_CASE("required is refused at the start when this process may not lock the budget") {
  LockAllowance allowance(4 * kSegment - 1);
  auto store = Store::create(options(LockPolicy::required, "/"), {});
  REQUIRE_FALSE(store);
  CHECK(store.error().kind == ErrorKind::no_space);
  CHECK_THAT(store.error().sentence, Contains(show_bytes(64 * kKiB - 1)) && Contains("ulimit -l unlimited"));
}

TEST_CASE("a lock that fails later gives the memory back and says how to raise the limit") {
  LockAllowance allowance(2 * kSegment);
  FakeSystemRoot root;  // without /proc, so that creation cannot foresee it
  CountingDevice device("HOST-0");
  auto store = Store::create(options(LockPolicy::required, root.path()), {&device});
  REQUIRE(store);
  auto refused = (*store)->reserve(3);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence,
             Contains("segment 2") && Contains(show_bytes(2 * kSegment)) && Contains("LimitMEMLOCK"));
  CHECK((*store)->usage().idle_bytes == 0);
  CHECK(device.registered == 0);
  CHECK((*store)->reserve(2));
}

TEST_CASE("try goes on with what can be locked, off locks nothing") {
  LockAllowance allowance(2 * kSegment);
  auto trying = Store::create(options(LockPolicy::try_, "/"), {});
  REQUIRE(trying);
  auto reservation = (*trying)->reserve(3);
  REQUIRE(reservation);
  CHECK((*trying)->usage().locked_bytes == 2 * kSegment);
  CHECK_FALSE(reservation->segments()[2]->locked);

  auto off = Store::create(options(LockPolicy::off, "/"), {});
  REQUIRE(off);
  REQUIRE((*off)->reserve(1));
  CHECK((*off)->usage().locked_bytes == 0);
}
