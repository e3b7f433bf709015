// Members of a collective as threads, each with a device, an arena and a stream, and scripts of broadcasts for them to
// follow. Outcomes are looked at in the test's own thread, because Catch2's assertions belong to one thread.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "daemon/collective/group.h"
#include "tests/contract/backends.h"

namespace ckptd::tests {

using namespace std::chrono_literals;

using MakeGroup = std::function<Result<std::vector<std::unique_ptr<collective::Member>>>(
    const std::vector<device::Device*>&, const std::vector<std::string>&)>;

inline Deadline long_enough() { return Deadline::in(60s); }

/// A script of broadcasts that all members follow, with the bytes that each is to spread.
struct Script {
  static constexpr std::size_t kSlots = 2, kSlotBytes = 20'000;

  struct Round {
    std::uint32_t from = 0;
    std::size_t slot = 0;
    std::vector<std::byte> bytes = {};
    std::size_t result_offset = 0;
  };

  Script(unsigned members, int rounds, std::mt19937_64& random) {
    for (int i = 0; i < rounds; ++i) {
      Round round{.from = static_cast<std::uint32_t>(random() % members), .slot = random() % kSlots};
      const bool edge = random() % 8 == 0;
      round.bytes.resize(edge ? (random() % 2) * kSlotBytes : random() % kSlotBytes);
      for (auto& byte : round.bytes) byte = static_cast<std::byte>(random());
      round.result_offset = result_bytes;
      result_bytes += round.bytes.size();
      list.push_back(std::move(round));
    }
  }

  std::vector<std::byte> results() const {
    std::vector<std::byte> all;
    for (const auto& round : list) all.insert(all.end(), round.bytes.begin(), round.bytes.end());
    return all;
  }

  std::vector<Round> list;
  std::size_t result_bytes = 0;
};

/// One member in its own thread: its arena, its stream and what became of it.
struct Lane {
  std::unique_ptr<collective::Member> member;
  device::Device* device = nullptr;
  std::vector<std::byte> (*bytes_at)(device::Range) = nullptr;  ///< the backend's: a GPU's memory has no pointer for us
  std::unique_ptr<device::Allocation> arena = {}, results = {};
  std::unique_ptr<device::Stream> stream = {};
  Result<> outcome = {};
  std::string last_words = {};

  Result<> prepare(const Script& script) {
    arena = CKPTD_TRY(device->allocate(Script::kSlots * Script::kSlotBytes));
    results = CKPTD_TRY(device->allocate(std::max<std::size_t>(script.result_bytes, 1)));
    stream = CKPTD_TRY(device->make_stream());
    return {};
  }

  /// The owner overwrites a slot that others may still be reading from an earlier round: only the collective's ordering
  /// keeps their bytes right. Nothing here waits for the device.
  Result<> step(const Script::Round& round) {
    const auto slot = arena->range().part(round.slot * Script::kSlotBytes, round.bytes.size());
    if (round.from == member->index()) CKPTD_TRY(stream->copy_from_host(slot, round.bytes.data()));
    CKPTD_TRY(member->broadcast(slot, round.from, *stream, long_enough()));
    return stream->copy(results->range().part(round.result_offset, slot.bytes), slot);
  }

  Result<> follow(const Script& script) {
    for (const auto& round : script.list) CKPTD_TRY(step(round));
    return stream->synchronize(long_enough());
  }

  std::vector<std::byte> seen(const Script& script) const {
    return bytes_at(results->range().part(0, script.result_bytes));
  }

  /// As a lane of the pipeline ends: its stream first, then its memory, without looking at the others. What the stream
  /// did last tells whether an owner took its memory away too early.
  void end() {
    if (auto done = stream->synchronize(long_enough()); !done) last_words = done.error().sentence;
    stream.reset();
    arena.reset();
    results.reset();
  }
};

template <class Backend>
class Party {
 public:
  Party(const MakeGroup& make_group, unsigned members) {
    std::vector<device::Device*> devices;
    std::vector<std::string> names;
    for (unsigned i = 0; i < members; ++i) {
      devices.push_back(&backend.device(i));
      names.push_back(backend.device(i).identity().uuid);
    }
    auto made = make_group(devices, names);
    REQUIRE(made);
    REQUIRE(made->size() == members);
    for (unsigned i = 0; i < members; ++i) {
      REQUIRE((*made)[i]->index() == i);
      lanes.push_back({.member = std::move((*made)[i]), .device = devices[i], .bytes_at = &Backend::bytes_at});
    }
  }

  /// Runs `act` for each lane in a thread of its own; the lanes' outcomes are looked at afterwards, in this thread.
  void run(const std::function<Result<>(Lane&)>& act) {
    std::vector<std::thread> threads;
    for (auto& lane : lanes) threads.emplace_back([&act, &lane] { lane.outcome = act(lane); });
    for (auto& thread : threads) thread.join();
  }

  /// A dead group answers every call with its first error.
  void check_dead(const Error& first) {
    for (auto& lane : lanes) {
      if (!lane.member) continue;
      auto agreed = lane.member->agree({}, long_enough());
      REQUIRE_FALSE(agreed);
      CHECK(agreed.error().sentence == first.sentence);
      CHECK(agreed.error().kind == first.kind);
      auto stream = lane.device->make_stream();
      REQUIRE(stream);
      auto spread = lane.member->broadcast({}, 0, **stream, long_enough());
      REQUIRE_FALSE(spread);
      CHECK(spread.error().sentence == first.sentence);
    }
  }

  Backend backend;
  std::vector<Lane> lanes;
};

inline bool says(const Error& error, const std::string& part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

/// A stream whose copies between devices are followed by something, and whose record may fail from then on.
class MeddlingStream final : public device::Stream {
 public:
  std::unique_ptr<device::Stream> under;
  std::function<void()> after_copy;
  bool fail_record = false;

  Result<> copy_from_host(device::Range to, const std::byte* from) override { return under->copy_from_host(to, from); }
  Result<> copy(device::Range to, device::Range from) override {
    auto queued = under->copy(to, from);
    after_copy();
    return queued;
  }
  Result<> record(device::Event& event) override {
    if (fail_record) return fail(ErrorKind::io, "injected failure of record");
    return under->record(event);
  }
  Result<> wait(const device::Event& event) override { return under->wait(event); }
  Result<> wake_when_done(const Waker& waker) override { return under->wake_when_done(waker); }
  Result<> synchronize(Deadline deadline) override { return under->synchronize(deadline); }
};

}  // namespace ckptd::tests
