// What every collective promises, stated once. A test program includes this and calls each function in a TEST_CASE of
// its own for each Backend of tests/contract/backends.h and for a function that makes a group of devices and names.
#pragma once

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/contract/collective_harness.h"

namespace ckptd::tests {

template <class Backend>
void broadcast_contract(const MakeGroup& make_group) {
  std::mt19937_64 random(seed_of_run());
  const unsigned members = GENERATE(1U, 2U, 3U, 4U);
  CAPTURE(members);

  SECTION("all have the bytes of each round's owner, although slots are used again at once") {
    for (int repeat = 0; repeat < 3; ++repeat) {
      Party<Backend> party(make_group, members);
      const Script script(members, 60, random);
      for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));
      party.run([&](Lane& lane) { return lane.follow(script); });
      for (auto& lane : party.lanes) {
        REQUIRE(lane.outcome);
        CHECK(difference(lane.seen(script), script.results()) == "");
      }
    }
  }
  SECTION("streams and memory may end right after the last call, others still read") {
    for (int repeat = 0; repeat < 10; ++repeat) {
      Party<Backend> party(make_group, members);
      const Script script(members, 3, random);
      std::vector<std::vector<std::byte>> seen(members);
      for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));
      party.run([&](Lane& lane) -> Result<> {
        for (const auto& round : script.list) CKPTD_TRY(lane.step(round));
        lane.stream.reset();
        lane.arena.reset();
        seen[lane.member->index()] = lane.seen(script);
        lane.member.reset();
        return {};
      });
      for (unsigned i = 0; i < members; ++i) {
        REQUIRE(party.lanes[i].outcome);
        CHECK(difference(seen[i], script.results()) == "");
      }
    }
  }
}

template <class Backend>
void agree_contract(const MakeGroup& make_group) {
  const unsigned members = GENERATE(1U, 2U, 4U);
  CAPTURE(members);
  Party<Backend> party(make_group, members);

  SECTION("nobody leaves before everybody came") {
    std::atomic<unsigned> came = 0, early = 0;
    party.run([&](Lane& lane) -> Result<> {
      for (unsigned round = 1; round <= 200; ++round) {
        ++came;
        CKPTD_TRY(lane.member->agree({}, long_enough()));
        if (came < round * members) ++early;
      }
      return {};
    });
    for (auto& lane : party.lanes) CHECK(lane.outcome);
    CHECK(early == 0);
  }
  SECTION("an answer stands for those who hear it late, although the first have left") {
    for (int repeat = 0; repeat < 100; ++repeat) {
      Party<Backend> short_lived(make_group, members);
      short_lived.run([&](Lane& lane) {
        auto outcome = lane.member->agree({}, long_enough());
        lane.member.reset();
        return outcome;
      });
      for (auto& lane : short_lived.lanes) REQUIRE(lane.outcome);
    }
  }
  SECTION("all get the error of the lowest-numbered member that brought one, and the group is dead") {
    party.run([&](Lane& lane) {
      const auto index = lane.member->index();
      Result<> brought;
      if (index >= members / 2) brought = fail(ErrorKind::no_space, "member {} has no memory", index);
      return lane.member->agree(std::move(brought), long_enough());
    });
    for (auto& lane : party.lanes) {
      REQUIRE_FALSE(lane.outcome);
      CHECK(lane.outcome.error().kind == ErrorKind::no_space);
      CHECK(says(lane.outcome.error(), fmt::format("member {} has", members / 2)));
    }
    party.check_dead(party.lanes[0].outcome.error());
  }
  SECTION("the first reason of many stays") {
    party.run([&](Lane& lane) -> Result<> {
      lane.member->abort({ErrorKind::cancelled, lane.device->identity().uuid});
      return lane.member->agree({}, long_enough());
    });
    REQUIRE_FALSE(party.lanes[0].outcome);
    party.check_dead(party.lanes[0].outcome.error());
  }
}

template <class Backend>
void absence_contract(const MakeGroup& make_group) {
  const unsigned members = GENERATE(2U, 3U, 4U);
  const bool broadcast = GENERATE(false, true);
  CAPTURE(members, broadcast);
  Party<Backend> party(make_group, members);
  const std::uint32_t absent = static_cast<std::uint32_t>(seed_of_run()) % members;
  const std::string culprit = party.lanes[absent].device->identity().uuid;
  std::mt19937_64 random(seed_of_run());
  Script script(members, 1, random);
  for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));

  const auto call = [&](Lane& lane, Deadline deadline) -> Result<> {
    if (!broadcast) return lane.member->agree({}, deadline);
    const auto slot = lane.arena->range().part(0, 1000);
    return lane.member->broadcast(slot, members - 1, *lane.stream, deadline);
  };
  const auto check = [&](ErrorKind kind) {
    for (auto& lane : party.lanes) {
      if (&lane == &party.lanes[absent]) continue;
      REQUIRE_FALSE(lane.outcome);
      CHECK(lane.outcome.error().kind == kind);
      CHECK(says(lane.outcome.error(), culprit));
    }
    party.check_dead(party.lanes[(absent + 1) % members].outcome.error());
  };

  SECTION("a deadline names the missing member, and all get the same error") {
    party.run([&](Lane& lane) {
      return lane.member->index() == absent ? Result<>{} : call(lane, Deadline::in(100ms));
    });
    check(ErrorKind::timed_out);
  }
  SECTION("a deadline that has passed already ends the group as well") {
    party.run([&](Lane& lane) {
      return lane.member->index() == absent ? Result<>{} : call(lane, Deadline::in(-1s));
    });
    check(ErrorKind::timed_out);
  }
  SECTION("a member that leaves releases those who wait and those who come later") {
    party.run([&](Lane& lane) -> Result<> {
      if (lane.member->index() != absent) return call(lane, long_enough());
      lane.member.reset();
      return {};
    });
    check(ErrorKind::peer_failed);
  }
  SECTION("a timed-out agreement passes on what the others brought") {
    party.run([&](Lane& lane) -> Result<> {
      if (lane.member->index() == absent) return {};
      return lane.member->agree(fail(ErrorKind::no_space, "arena too small"), Deadline::in(100ms));
    });
    check(ErrorKind::timed_out);
    CHECK(says(party.lanes[(absent + 1) % members].outcome.error(), "arena too small"));
  }
  SECTION("an abort from another thread releases everybody at once") {
    std::thread other([&] {
      party.lanes[absent].member->abort({ErrorKind::cancelled, culprit + " was told to stop"});
    });
    party.run([&](Lane& lane) {
      return lane.member->index() == absent ? Result<>{} : call(lane, long_enough());
    });
    other.join();
    check(ErrorKind::cancelled);
  }
  SECTION("members that make different calls learn of it") {
    party.run([&](Lane& lane) -> Result<> {
      if (lane.member->index() != absent) return call(lane, long_enough());
      const auto slot = lane.arena->range().part(0, 999);
      return lane.member->broadcast(slot, broadcast ? members - 1 : 0, *lane.stream, long_enough());
    });
    for (auto& lane : party.lanes) CHECK_FALSE(lane.outcome);
    party.check_dead(party.lanes[0].outcome.error());
  }
  SECTION("a broadcast from nobody is an error of the one who asks for it") {
    party.run([&](Lane& lane) -> Result<> {
      if (lane.member->index() != absent) return call(lane, long_enough());
      return lane.member->broadcast(lane.arena->range(), members, *lane.stream, long_enough());
    });
    check(ErrorKind::invalid_argument);
  }
  for (auto& lane : party.lanes) lane.end();
}

/// The group ends while a reader has queued its copy and not yet recorded it. The owner ends its stream and frees its
/// memory at once, and still the reader's copy must find the bytes.
template <class Backend>
void interrupted_broadcast_contract(const MakeGroup& make_group) {
  std::mt19937_64 random(seed_of_run());
  const bool fail_record = GENERATE(false, true);
  const bool abort = !fail_record || GENERATE(false, true);
  CAPTURE(fail_record, abort);
  for (int repeat = 0; repeat < 20; ++repeat) {
    Party<Backend> party(make_group, 2);
    Script script(1, 1, random);
    script.list[0].bytes.assign(Script::kSlotBytes, std::byte{9});
    for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));

    auto meddling = std::make_unique<MeddlingStream>();
    auto& reader = party.lanes[1];
    meddling->under = std::move(reader.stream);
    meddling->fail_record = fail_record;
    meddling->after_copy = [&] {
      if (abort) reader.member->abort({ErrorKind::cancelled, "stopped in the middle"});
      // Time for an owner that does not wait for this reader to do its worst; a kind scheduler makes no test fail.
      std::this_thread::sleep_for(2ms);
    };
    reader.stream = std::move(meddling);

    const auto slot_of = [](Lane& lane) { return lane.arena->range().part(0, Script::kSlotBytes); };
    party.run([&](Lane& lane) {
      auto& stream = *lane.stream;
      const bool owner = lane.member->index() == 0;
      if (owner) (void)stream.copy_from_host(slot_of(lane), script.list[0].bytes.data());
      auto outcome = lane.member->broadcast(slot_of(lane), 0, stream, long_enough());
      if (owner) lane.end();
      return outcome;
    });
    for (auto& lane : party.lanes) {
      REQUIRE_FALSE(lane.outcome);
      CHECK(says(lane.outcome.error(), abort ? "stopped" : "injected"));
    }
    const auto done = reader.stream->synchronize(long_enough());
    INFO((done ? "" : done.error().sentence));
    REQUIRE(done);
    CHECK(difference(Backend::bytes_at(slot_of(reader)), script.list[0].bytes) == "");
    reader.end();
  }
}

/// One member misbehaves in some round, and each lane then ends by itself: nobody may hang, read freed memory or be
/// left with another error than the rest.
template <class Backend>
void fault_contract(const MakeGroup& make_group) {
  std::mt19937_64 random(seed_of_run());
  enum class Fault { abort, abort_elsewhere, leave, other_call, bring_error, fail_work, fail_call };
  constexpr std::array kCalls{Call::record, Call::wait, Call::copy, Call::work_copy, Call::work_copy_from_host};

  for (int repeat = 0; repeat < 60; ++repeat) {
    const auto members = static_cast<unsigned>(2 + random() % 3);
    constexpr int kRounds = 12;
    Party<Backend> party(make_group, members);
    const Script script(members, kRounds, random);
    const auto culprit = static_cast<std::uint32_t>(random() % members);
    const std::size_t at = random() % kRounds;
    const auto fault = static_cast<Fault>(random() % (Backend::kInjectsFaults ? 7 : 6));
    CAPTURE(repeat, members, culprit, at, static_cast<int>(fault));
    for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));
    if constexpr (Backend::kInjectsFaults)
      if (fault == Fault::fail_call)
        party.backend.shuffler().fail_nth(kCalls[random() % kCalls.size()], 1 + static_cast<unsigned>(random() % 40));

    std::thread elsewhere;
    const Error reason{ErrorKind::cancelled, "stopped by the test"};
    const auto misbehave = [&](Lane& lane) -> Result<> {
      switch (fault) {
        case Fault::abort: lane.member->abort(reason); break;
        case Fault::abort_elsewhere: elsewhere = std::thread([&] { lane.member->abort(reason); }); break;
        case Fault::leave: lane.member.reset(); return fail(ErrorKind::peer_failed, "left");
        case Fault::other_call: return lane.member->agree({}, long_enough());
        case Fault::bring_error: return lane.member->agree(std::unexpected(reason), long_enough());
        case Fault::fail_work: return party.backend.queue_failure(*lane.stream);
        case Fault::fail_call: break;
      }
      return {};
    };
    std::vector<std::vector<std::byte>> results(members);
    party.run([&](Lane& lane) {
      const auto index = lane.member->index();
      const auto run = [&]() -> Result<> {
        for (std::size_t i = 0; i < script.list.size(); ++i) {
          if (index == culprit && i == at) CKPTD_TRY(misbehave(lane));
          if (auto stepped = lane.step(script.list[i]); !stepped) {
            lane.member->abort(stepped.error());
            return stepped;
          }
        }
        return lane.stream->synchronize(long_enough());
      };
      auto outcome = run();
      if (outcome) results[index] = lane.seen(script);
      lane.end();
      return outcome;
    });
    if (elsewhere.joinable()) elsewhere.join();
    for (auto& lane : party.lanes) CHECK(lane.last_words.find("the source of a copy") == std::string::npos);

    const auto* witness = &party.lanes[(culprit + 1) % members];
    switch (fault) {
      case Fault::abort:
      case Fault::leave:
      case Fault::other_call:
      case Fault::bring_error:
        REQUIRE_FALSE(witness->outcome);
        party.check_dead(witness->outcome.error());
        for (auto& lane : party.lanes) {
          REQUIRE_FALSE(lane.outcome);
          if (lane.member) CHECK(lane.outcome.error().sentence == witness->outcome.error().sentence);
        }
        break;
      case Fault::abort_elsewhere:
        party.check_dead(reason);
        break;
      case Fault::fail_work:
        CHECK_FALSE(party.lanes[culprit].outcome);
        break;
      case Fault::fail_call:
        break;
    }
    for (unsigned i = 0; i < members; ++i) {
      if (party.lanes[i].outcome) CHECK(difference(results[i], script.results()) == "");
    }
  }
}

}  // namespace ckptd::tests
