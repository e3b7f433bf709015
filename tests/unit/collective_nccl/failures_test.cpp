// What goes wrong in NCCL ends the update, in time, with an error that names device and step.
#include "tests/unit/collective_nccl/house.h"

namespace ckptd::tests {
namespace {

constexpr Patience kLittle{.start = 1s, .drain = 100ms, .stuck = 150ms};
/// Where something goes well besides: no thread is held up for as long.
constexpr Patience kSome{.start = 2s, .drain = 200ms, .stuck = 1s};

struct Watch {
  Clock::time_point start = Clock::now();
  bool within(Clock::duration span) const { return Clock::now() - start < span; }
};

}  // namespace

TEST_CASE("making communicators fails") {
  House house(kLittle);
  const Watch watch;
  std::string named, kind_of_step = "make a communicator";
  SECTION("the unique id") {
    fake_nccl_fail("ncclGetUniqueId", 1, kSystem);
    kind_of_step = "a new communicator";
  }
  SECTION("a call") {
    fake_nccl_fail("ncclCommInitRankConfig", 2, kSystem);
    named = "HOST-1";
  }
  SECTION("later, on one device, of which the others tell") {
    fake_nccl_fail_later("ncclCommInitRankConfig", 3, kSystem);
    named = "HOST-2";
  }
  SECTION("one that comes to no end") {
    fake_nccl_fail_later("ncclCommInitRankConfig", 2, kNever);
    named = "HOST-1";
  }
  SECTION("the end of the group") {
    fake_nccl_fail("ncclGroupEnd", 1, kInternal);
  }
  SECTION("a call that does not return") {
    fake_nccl_hang("ncclCommInitRankConfig", 3, 0);
    named = "HOST-2";
    house.hung_for_ever = true;  // what that call makes in the end, nobody has heard of
  }
  SECTION("the end of the group does not return") {
    fake_nccl_hang("ncclGroupEnd", 1, 0);
  }
  auto made = house.groups->make_group(house.all, house.names);
  REQUIRE_FALSE(made);
  CHECK(says(made.error(), kind_of_step));
  CHECK(says(made.error(), named));
  CHECK(watch.within(10s));
  house.groups.reset();
  CHECK(watch.within(15s));
  // Before another test counts it among its own.
  if (house.hung_for_ever) wait_for([] { return fake_nccl_communicators() == 1; });
}

TEST_CASE("a broadcast fails") {
  House house;
  house.update();
  std::string named = "HOST-2";
  SECTION("a call") {
    fake_nccl_fail("ncclBroadcast", 3, kInternal);
  }
  SECTION("later, on one device, of which the others tell") {
    fake_nccl_fail_later("ncclBroadcast", 3, kSystem);
  }
  SECTION("the question for the state") {
    fake_nccl_fail("ncclCommGetAsyncError", 4, kInternal);  // the first three ask before the group
    named = "HOST-";
  }
  SECTION("the end of the group") {
    fake_nccl_fail("ncclGroupEnd", 1, kInternal);
    named = "HOST-";
  }
  SECTION("the stream's record") {
    // The fake records three events of its own for each broadcast.
    house.shuffler.fail_nth(Call::record, 6);
  }
  const auto error = house.failing_update();
  CHECK(says(error, named));
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
  house.shuffler.fail_nothing();
  house.update();
}

TEST_CASE("a broadcast that is not queued by its deadline names device, owner and step") {
  House house(kSome);
  house.update();
  SECTION("it comes to no end on one device") {
    fake_nccl_fail_later("ncclBroadcast", 3, kNever);
    const auto error = house.failing_update(Deadline::in(1s));
    CHECK(error.kind == ErrorKind::timed_out);
    CHECK(says(error, "queue a broadcast of 1000 bytes from HOST-1: still in progress on HOST-2"));
  }
  SECTION("a call does not return") {
    fake_nccl_hang("ncclGroupEnd", 1, 0);
    const auto error = house.failing_update(Deadline::in(1s));
    CHECK(error.kind == ErrorKind::timed_out);
    CHECK(says(error, "queue a broadcast of 1000 bytes from HOST-1"));
  }
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
  CHECK(House::standing.given_up == 0);
  house.update();
}

TEST_CASE("where not even an abort helps, devices are given up and nobody waits for ever") {
  House house({.start = 2s, .drain = 100ms, .stuck = 500ms});
  house.hung_for_ever = true;
  house.update();
  House::standing.given_up = 0;
  const Watch watch;
  SECTION("a call does not return, nor does the abort") {
    fake_nccl_hang("ncclGroupEnd", 1, 1);
    fake_nccl_hang("ncclCommAbort", 1, 1);
  }
  SECTION("the abort does not return") {
    fake_nccl_fail_later("ncclBroadcast", 1, kNever);
    fake_nccl_hang("ncclCommAbort", 1, 1);
  }
  const auto error = house.failing_update(Deadline::in(1s));
  CHECK(error.kind == ErrorKind::timed_out);
  CHECK(House::standing.given_up == House::kDevices);
  House::standing.given_up = 0;
  house.groups.reset();
  CHECK(watch.within(30s));
  fake_nccl_release();
  wait_for([] { return fake_nccl_hanging() == 0; });
}

TEST_CASE("an abort ends every wait at once and does not wait itself") {
  House house;
  house.update();
  auto members = house.make();
  const Error reason{ErrorKind::cancelled, "told to stop"};
  std::function<Result<>(Member&)> act;
  std::function<bool()> begun = [] { return true; };
  const auto broadcasts = fake_nccl_calls("ncclBroadcast");
  const auto launched = [&] { return fake_nccl_calls("ncclBroadcast") == broadcasts + House::kDevices; };
  SECTION("the meeting of an agreement") {
    act = [](Member& member) { return member.index() == 0 ? Result<>{} : member.agree({}, long_enough()); };
  }
  SECTION("the meeting of a broadcast") {
    act = [&](Member& member) { return member.index() == 0 ? Result<>{} : house.spread(member, 1, std::byte{1}); };
  }
  SECTION("NCCL, which is not done yet") {
    fake_nccl_fail_later("ncclBroadcast", 1, kNever);
    act = [&](Member& member) { return house.spread(member, 1, std::byte{1}); };
    begun = launched;
  }
  std::thread other([&] {
    if (!comes(begun)) std::abort();
    std::this_thread::sleep_for(5ms);
    const Watch watch;
    members[0]->abort(reason);
    if (!watch.within(10s)) std::abort();
  });
  const Watch watch;
  const auto outcomes = house.run(members, act);
  other.join();
  CHECK(watch.within(10s));
  for (std::size_t i = 1; i < outcomes.size(); ++i) {
    REQUIRE_FALSE(outcomes[i]);
    CHECK(outcomes[i].error().sentence == reason.sentence);
  }
  members.clear();
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
}

TEST_CASE("an abort does not wait for a call of NCCL that does not return") {
  House house(kSome);
  house.update();
  auto members = house.make();
  fake_nccl_hang("ncclGroupEnd", 1, 0);
  std::thread other([&] {
    if (!comes([] { return fake_nccl_hanging() == 1; })) std::abort();
    const Watch watch;
    members[2]->abort({ErrorKind::cancelled, "told to stop"});
    if (!watch.within(10s)) std::abort();
  });
  const auto outcomes = house.run(members, [&](Member& member) { return house.spread(member, 0, std::byte{1}); });
  other.join();
  for (const auto& outcome : outcomes) {
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().sentence == "told to stop");
  }
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
}

TEST_CASE("the end of the daemon ends the making of communicators") {
  House house;
  fake_nccl_fail_later("ncclCommInitRankConfig", 1, kNever);
  std::thread other([&] {
    if (!comes([] { return fake_nccl_calls("ncclCommGetAsyncError") > 3; })) std::abort();
    house.groups->close(Deadline::in(60s));
  });
  const Watch watch;
  const auto made = house.groups->make_group(house.all, house.names);
  other.join();
  REQUIRE_FALSE(made);
  CHECK(made.error().kind == ErrorKind::unavailable);
  CHECK(watch.within(10s));
  CHECK_FALSE(house.groups->make_group(house.all, house.names));
}

TEST_CASE("a stop request ends the making of communicators, and the look at those that wait") {
  House house;
  std::stop_source stop;
  std::function<bool()> begun;
  unsigned aborted = House::kDevices;
  SECTION("that are made") {
    fake_nccl_fail_later("ncclCommInitRankConfig", 1, kNever);
    begun = [] { return fake_nccl_calls("ncclCommGetAsyncError") > 3; };
  }
  SECTION("that wait, and do not say how they fare") {
    house.update();
    fake_nccl_hang("ncclCommGetAsyncError", 1, 0);
    begun = [] { return fake_nccl_hanging() == 1; };
  }
  SECTION("before it has begun") {
    stop.request_stop();
    aborted = 0;
  }
  std::thread other([&] {
    if (!begun) return;
    if (!comes(begun)) std::abort();
    stop.request_stop();
  });
  const Watch watch;
  const auto made = house.groups->make_group(house.all, house.names, stop.get_token());
  other.join();
  REQUIRE_FALSE(made);
  CHECK(made.error().kind == ErrorKind::cancelled);
  CHECK(watch.within(4s));  // sooner than any patience of this house
  fake_nccl_release();
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == aborted);
  house.update();
}

TEST_CASE("an end by a deadline is held up by no NCCL that hangs, whatever the patience is") {
  House house({.start = 20s, .drain = 20s, .stuck = 20s});
  house.hung_for_ever = true;
  house.update();
  House::standing.given_up = 0;
  SECTION("a call that does not return, nor does the abort") {
    fake_nccl_hang("ncclGroupEnd", 1, 1);
    fake_nccl_hang("ncclCommAbort", 1, 1);
  }
  SECTION("a call that returns when it is aborted") { fake_nccl_hang("ncclGroupEnd", 1, 0); }
  SECTION("a broadcast that never gets done, and an abort that does not return") {
    fake_nccl_fail_later("ncclBroadcast", 1, kNever);
    fake_nccl_hang("ncclCommAbort", 1, 1);
  }
  auto members = house.make();
  const auto broadcasts = fake_nccl_calls("ncclBroadcast");
  const Watch watch;
  std::thread end([&] {
    if (!comes([&] { return fake_nccl_calls("ncclBroadcast") >= broadcasts + House::kDevices; })) std::abort();
    house.groups->close(Deadline::in(400ms));
  });
  // Nobody tells these lanes that the daemon ends: their deadline is a minute away.
  for (const auto& outcome : house.run(members, [&](Member& member) { return house.spread(member, 0, std::byte{1}); }))
    CHECK_FALSE(outcome);
  end.join();
  members.clear();
  house.groups.reset();
  CHECK(watch.within(5s));
  House::standing.given_up = 0;
  fake_nccl_release();
  wait_for([] { return fake_nccl_hanging() == 0; });
}

TEST_CASE("several sets end side by side") {
  // One after the other they take four of these spans. Who is held up for long meanwhile tells nothing: then once more.
  for (const auto span : {600ms, 2'000ms}) {
    House house({.start = 20s, .drain = span, .stuck = span});
    house.hung_for_ever = true;
    auto one = house.make(), other = house.make();
    fake_nccl_fail_later("ncclCommFinalize", 1, kNever);  // each of the two
    fake_nccl_fail_later("ncclCommFinalize", 4, kNever);
    one.clear();
    other.clear();
    const Watch watch;
    house.groups.reset();
    const bool side_by_side = watch.within(span * 7 / 2);
    wait_for([] { return fake_nccl_communicators() == 0; });
    if (!side_by_side && span < 2s) continue;
    CHECK(side_by_side);
    break;
  }
}

TEST_CASE("queued broadcasts go on after an abort, as long as they get on") {
  enum class End { in_time, late, on_lost_device };
  const auto end = GENERATE(End::in_time, End::late, End::on_lost_device);
  CAPTURE(static_cast<int>(end));
  House house({.start = 20s, .drain = end == End::in_time ? 10s : 100ms, .stuck = 150ms});
  auto members = house.make();
  std::vector<std::unique_ptr<device::Allocation>> memory;
  std::vector<std::unique_ptr<device::Stream>> streams;
  for (auto* device : house.all) {
    memory.push_back(*device->allocate(House::kBytes));
    streams.push_back(*device->make_stream());
  }
  const std::vector<std::byte> bytes(House::kBytes, std::byte{5});
  house.shuffler.pause();
  const auto outcomes = house.run(members, [&](Member& member) -> Result<> {
    const auto index = member.index();
    if (index == 0) CKPTD_TRY(streams[0]->copy_from_host(memory[0]->range(), bytes.data()));
    return member.broadcast(memory[index]->range(), 0, *streams[index], long_enough());
  });
  for (const auto& outcome : outcomes) REQUIRE(outcome);
  const auto came = [&] {
    for (auto& stream : streams) CHECK(stream->synchronize(long_enough()));
    for (auto& each : memory)
      if (*reinterpret_cast<const std::byte*>(each->range().address) != std::byte{5}) return false;
    return true;
  };

  if (end == End::in_time) {  // the bytes are there, and then it is aborted
    members[1]->abort({ErrorKind::cancelled, "told to stop"});
    house.shuffler.resume();
    CHECK(came());
  }
  if (end == End::late) {  // they are cut off, and streams come to their end
    members[1]->abort({ErrorKind::cancelled, "told to stop"});
    wait_for([] { return fake_nccl_communicators() == 0; });
    house.shuffler.resume();
    CHECK_FALSE(came());
  }
  if (end == End::on_lost_device) {  // nobody waits for it
    House::standing.lost = house.all[2];
    const Watch watch;
    members[1]->abort({ErrorKind::cancelled, "told to stop"});
    wait_for([] { return fake_nccl_communicators() == 0; });
    House::standing.lost = nullptr;
    house.shuffler.resume();
    CHECK_FALSE(came());
  }
  wait_for([] { return fake_nccl_communicators() == 0; });
  CHECK(fake_nccl_calls("ncclCommAbort") == House::kDevices);
  streams.clear();
}

}  // namespace ckptd::tests
