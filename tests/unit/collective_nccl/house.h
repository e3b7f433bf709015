// Groups over the fake NCCL and shuffling devices, with little patience, and members as threads.
#pragma once

#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/collective/nccl/nccl_group.h"
#include "daemon/device/host/host_device.h"
#include "tests/support/fake_nccl/device_streams.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"

namespace ckptd::tests {

using namespace std::chrono_literals;
using collective::Member;
using collective::nccl::Groups;
using collective::nccl::Library;
using collective::nccl::Patience;
using Members = std::vector<std::unique_ptr<Member>>;

inline constexpr int kInternal = 3, kSystem = 2, kNever = 7;

inline Deadline long_enough() {
  return Deadline::in(60s);
}

inline bool says(const Error& error, const std::string& part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

class House {
 public:
  static constexpr unsigned kDevices = 3;
  static constexpr std::uint64_t kBytes = 1'000;

  explicit House(Patience patience = {.start = 20s, .drain = 5s, .stuck = 5s}) : shuffler(seed_of_run()) {
    fake_nccl_begin(&device_streams(), seed_of_run());
    for (unsigned i = 0; i < kDevices; ++i) {
      devices.push_back(shuffler.wrap(device::host::make_host_device(i)));
      all.push_back(devices.back().get());
      names.push_back(all.back()->identity().uuid);
    }
    auto library = Library::open(CKPTD_FAKE_NCCL);
    REQUIRE(library);
    groups = std::make_unique<Groups>(*library, device_natives(standing), patience);
  }

  ~House() {
    groups.reset();
    fake_nccl_release();
    CHECK(std::string(fake_nccl_last_complaint()) == "");
    if (!hung_for_ever) CHECK(fake_nccl_communicators() == 0);
  }

  Members make() {
    auto made = groups->make_group(all, names);
    if (!made) FAIL(made.error().sentence);
    return std::move(*made);
  }

  /// Each member in its thread; their outcomes.
  std::vector<Result<>> run(Members& members, const std::function<Result<>(Member&)>& act) {
    std::vector<Result<>> outcomes(members.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < members.size(); ++i) threads.emplace_back([&, i] { outcomes[i] = act(*members[i]); });
    for (auto& thread : threads) thread.join();
    return outcomes;
  }

  /// Broadcasts `byte` from `from` and looks whether it came.
  Result<> spread(Member& member, std::uint32_t from, std::byte byte, Deadline deadline = long_enough()) {
    auto& device = *all[member.index()];
    const std::vector<std::byte> bytes(kBytes, byte);
    auto memory = CKPTD_TRY(device.allocate(kBytes));
    auto stream = CKPTD_TRY(device.make_stream());
    if (member.index() == from) CKPTD_TRY(stream->copy_from_host(memory->range(), bytes.data()));
    CKPTD_TRY(member.broadcast(memory->range(), from, *stream, deadline));
    CKPTD_TRY(stream->synchronize(long_enough()));
    const auto* at = reinterpret_cast<const std::byte*>(memory->range().address);
    if (std::vector<std::byte>(at, at + kBytes) != bytes) return fail(ErrorKind::corrupt, "other bytes came");
    return {};
  }

  /// One update that succeeds.
  void update() {
    auto members = make();
    for (const auto& outcome : run(members, [&](Member& member) -> Result<> {
           CKPTD_TRY(member.agree({}, long_enough()));
           for (std::uint32_t from = 0; from < kDevices; ++from) CKPTD_TRY(spread(member, from, std::byte{7}));
           return {};
         })) {
      if (!outcome) FAIL(outcome.error().sentence);
    }
  }

  /// One update whose broadcast fails; all have the same error, which is returned.
  Error failing_update(Deadline deadline = long_enough()) {
    auto members = make();
    auto outcomes = run(members, [&](Member& member) { return spread(member, 1, std::byte{9}, deadline); });
    for (const auto& outcome : outcomes) REQUIRE_FALSE(outcome);
    for (const auto& outcome : outcomes) CHECK(outcome.error().sentence == outcomes[0].error().sentence);
    const auto again = run(members, [&](Member& member) { return member.agree({}, long_enough()); });
    for (const auto& outcome : again) {
      REQUIRE_FALSE(outcome);
      CHECK(outcome.error().sentence == outcomes[0].error().sentence);
    }
    return outcomes[0].error();
  }

  Shuffler shuffler;
  std::vector<std::unique_ptr<device::Device>> devices;
  std::vector<device::Device*> all;
  std::vector<std::string> names;
  inline static Standing standing;  // a thread that is left behind may still ask
  std::unique_ptr<Groups> groups;
  bool hung_for_ever = false;
};

/// Waits until `what` is so, for states that nobody tells of; whether it came. Of any thread.
inline bool comes(const std::function<bool()>& what) {
  const auto deadline = Deadline::in(20s);
  while (!what() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  return what();
}

/// The same of the test's own thread: Catch2 is for one.
inline void wait_for(const std::function<bool()>& what) { REQUIRE(comes(what)); }

}  // namespace ckptd::tests
