// What tests of pushes share: a model, devices and ranks, none of them real.
#pragma once

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "daemon/collective/local/local_group.h"
#include "daemon/device/host/host_device.h"
#include "daemon/pipeline/arena.h"
#include "daemon/pipeline/push.h"
#include "daemon/pipeline/receipts.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"
#include "tests/unit/pipeline/scripted_rank.h"

namespace ckptd::tests {

using namespace pipeline;
using namespace std::chrono_literals;

constexpr std::uint64_t kSegment = 8192;

/// A model with random bytes at rest, devices that shuffle, and ranks that follow scripts.
struct Bench {
  explicit Bench(std::uint32_t members, std::uint64_t seed = tests::seed_of_run())
      : random(seed), shuffler(seed), members(members) {
    INFO("seed " << seed);
    std::uint64_t at = 100;
    for (int i = 0; i < 40; ++i) {
      const auto count = random() % 700;
      const auto dtype = random() % 2 ? weights::Dtype::bf16 : weights::Dtype::f32;
      const auto bytes = count * weights::bits_of(dtype) / 8;
      manifest.tensors.push_back({fmt::format("t{}", i), dtype, {count}, {0, at, bytes}});
      at += bytes;
    }
    manifest.files.push_back({"f", at, 100, "s"});
    layout.emplace(manifest, kSegment);
    rest.resize(layout->total_bytes());
    for (auto& byte : rest) byte = static_cast<std::byte>(random());
    for (std::uint32_t i = 0; i < members; ++i) {
      devices.push_back(shuffler.wrap(device::host::make_host_device(i)));
      models.push_back(std::make_shared<tests::Model>());
    }
    deadlines = {5s, 5s, 5s, 5s, 5s, 5s, 5s};
  }

  Result<> run(plan::FanOut fan_out, std::vector<Script> scripts, std::stop_token stop = {},
                     std::uint64_t bucket_bytes = 4096, std::uint64_t arena_bytes = 3 * 4096) {
    auto made = plan::make_plan(manifest, *layout, {members, arena_bytes, {bucket_bytes, 256}, fan_out});
    REQUIRE(made);
    plan = *made;
    std::vector<device::Device*> raw;
    std::vector<std::string> names;
    for (auto& each : devices) raw.push_back(each.get()), names.push_back(each->identity().uuid);
    std::vector<Lane> lanes(members);
    std::vector<std::unique_ptr<collective::Member>> group;
    if (fan_out == plan::FanOut::broadcast) group = CKPTD_TRY(collective::local::make_group(raw, names));
    for (std::uint32_t i = 0; i < members; ++i) {
      arenas.push_back(CKPTD_TRY(allocate_arena(*raw[i], arena_bytes, arena_bytes)));
      lanes[i].device = raw[i];
      lanes[i].arena = arenas[i].get();
      scripts[i].seed = random();
      lanes[i].session = tests::make_scripted_session(names[i], lanes[i].arena->range(), scripts[i], models[i]);
      if (!group.empty()) lanes[i].member = std::move(group[i]);
    }
    if (meddle) meddle(lanes);
    return push(plan, manifest, [this](auto offset, auto limit) { return resting(offset, limit); }, std::move(lanes),
                deadlines, gates, progress, stop, report);
  }

  /// As whoever has written down that a push went well.
  void await_receipts(std::stop_token stop = {}) {
    pipeline::await_receipts(report, Deadline::in(deadlines.receipt), stop);
  }

  std::span<const std::byte> resting(std::uint64_t offset, std::uint64_t limit) const {
    const auto in_segment = kSegment - offset % kSegment;
    return std::span(rest).subspan(offset, std::min({limit, in_segment, rest.size() - offset}));
  }

  void check_model(const tests::Model& model) const {
    REQUIRE(model.tensors.size() == manifest.tensors.size());
    for (const auto& tensor : manifest.tensors) {
      INFO(tensor.name);
      const auto* wanted = rest.data() + layout->resting_offset(tensor.extent);
      const auto& got = model.tensors.at(tensor.name);
      REQUIRE(got.size() == tensor.extent.bytes);
      REQUIRE(std::equal(got.begin(), got.end(), wanted));
    }
    REQUIRE_FALSE(model.broke_lockstep);
    REQUIRE(model.failed.empty());
  }

  std::mt19937 random;
  tests::Shuffler shuffler;
  std::uint32_t members;
  weights::Manifest manifest;
  std::optional<weights::Layout> layout;
  std::vector<std::byte> rest;
  std::vector<std::unique_ptr<device::Device>> devices;
  std::vector<std::shared_ptr<tests::Model>> models;
  Deadlines deadlines;
  Gates gates{[this]() -> Result<> {
                ++offers;
                return {};
              },
              [this]() -> Result<> {
                ++touches;
                return {};
              }};
  std::atomic<int> offers = 0, touches = 0;
  std::function<void(std::vector<Lane>&)> meddle;  ///< with what the lanes have, before they begin
  Progress progress;
  Report report;
  std::vector<std::unique_ptr<device::Allocation>> arenas;
  plan::Plan plan;
};

}  // namespace ckptd::tests
