// Communicators between groups.
#include "tests/unit/collective_nccl/house.h"

namespace ckptd::tests {

TEST_CASE("one set of communicators serves one update after the other") {
  House house;
  for (int update = 0; update < 5; ++update) house.update();
  CHECK(fake_nccl_calls("ncclGetUniqueId") == 1);
  CHECK(fake_nccl_calls("ncclCommInitRankConfig") == House::kDevices);
  CHECK(fake_nccl_calls("ncclBroadcast") == 5 * House::kDevices * House::kDevices);
  CHECK(house.groups->epochs() == 1);
  CHECK(house.groups->idle() == 1);
  house.groups.reset();
  CHECK(fake_nccl_calls("ncclCommFinalize") == House::kDevices);
  CHECK(fake_nccl_calls("ncclCommDestroy") == House::kDevices);
  CHECK(fake_nccl_calls("ncclCommAbort") == 0);
}

TEST_CASE("after a failure there is a new epoch, and the old one is aborted once") {
  House house;
  house.update();
  fake_nccl_fail("ncclBroadcast", 2, kInternal);
  CHECK(says(house.failing_update(), "HOST-1"));
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
  CHECK(house.groups->idle() == 0);
  house.update();
  CHECK(house.groups->epochs() == 2);
  CHECK(fake_nccl_calls("ncclGetUniqueId") == 2);
  CHECK(fake_nccl_calls("ncclCommInitRankConfig") == 2 * House::kDevices);
}

TEST_CASE("other devices, or the same in another order, are another set") {
  House house;
  house.update();
  auto reversed = house.groups->make_group({house.all[1], house.all[0]}, {"HOST-1", "HOST-0"});
  REQUIRE(reversed);
  CHECK(house.groups->epochs() == 2);
  reversed->clear();
  CHECK(house.groups->idle() == 2);
}

TEST_CASE("what waits for its next group is let go when somebody asks, in order, and made anew") {
  House house;
  CHECK(house.groups->drop_idle() == 0);
  house.update();
  {
    const auto lent = house.make();  // not idle, so it stays
    CHECK(house.groups->drop_idle() == 0);
  }
  CHECK(house.groups->drop_idle() == 1);
  CHECK(house.groups->drop_idle() == 0);
  CHECK(house.groups->idle() == 0);
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommFinalize") == House::kDevices);
  CHECK(fake_nccl_calls("ncclCommDestroy") == House::kDevices);
  CHECK(fake_nccl_calls("ncclCommAbort") == 0);
  house.update();
  CHECK(house.groups->epochs() == 2);
}

TEST_CASE("two groups of the same devices at once do not share, and one set is kept") {
  House house;
  auto one = house.make();
  auto other = house.make();
  CHECK(house.groups->epochs() == 2);
  one.clear();
  other.clear();
  CHECK(house.groups->idle() == 1);
  wait_for([] { return fake_nccl_communicators() == House::kDevices; });
  CHECK(fake_nccl_calls("ncclCommDestroy") == House::kDevices);
}

TEST_CASE("communicators that broke while nobody used them are made anew") {
  House house;
  house.update();
  fake_nccl_break(2, kSystem);
  house.update();
  CHECK(house.groups->epochs() == 2);
  wait_for([] { return fake_nccl_communicators() == House::kDevices; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
}

TEST_CASE("a group of one needs no NCCL, and no device comes twice") {
  House house;
  auto alone = house.groups->make_group({house.all[0]}, {"HOST-0"});
  REQUIRE(alone);
  CHECK(house.spread(*alone->front(), 0, std::byte{3}));
  CHECK(fake_nccl_calls("ncclGetUniqueId") == 0);
  auto twice = house.groups->make_group({house.all[0], house.all[0]}, {"HOST-0", "HOST-0"});
  REQUIRE_FALSE(twice);
  CHECK(twice.error().kind == ErrorKind::invalid_argument);
  CHECK_FALSE(house.groups->make_group({}, {}));
}

TEST_CASE("communicators that do not finish in order are aborted") {
  House house({.start = 20s, .drain = 200ms, .stuck = 200ms});
  house.update();
  SECTION("because one reports an error") {
    fake_nccl_fail_later("ncclCommFinalize", 2, kSystem);
  }
  SECTION("because one comes to no end") {
    fake_nccl_fail_later("ncclCommFinalize", 2, kNever);
  }
  SECTION("because the call fails") {
    fake_nccl_fail("ncclCommFinalize", 1, kInternal);
  }
  house.groups.reset();
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
  CHECK(fake_nccl_calls("ncclCommDestroy") == 0);
}

TEST_CASE("devices that are lost make no group") {
  House house;
  House::standing.lost = house.all[1];
  const auto made = house.groups->make_group(house.all, house.names);
  House::standing.lost = nullptr;
  REQUIRE_FALSE(made);
  CHECK(says(made.error(), "HOST-1 is lost"));
  CHECK(fake_nccl_calls("ncclGetUniqueId") == 0);
}

}  // namespace ckptd::tests
