#include "daemon/pipeline/push.h"

#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "common/units.h"
#include "daemon/collective/local/local_group.h"
#include "daemon/device/host/host_device.h"
#include "daemon/pipeline/arena.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"
#include "tests/unit/pipeline/scripted_rank.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::Script;

namespace {

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
    deadlines = {5s, 5s, 5s, 5s, 5s};
  }

  Result<Report> run(plan::FanOut fan_out, std::vector<Script> scripts, std::stop_token stop = {},
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
      auto arena = allocate_arena(*raw[i], arena_bytes, arena_bytes);
      if (!arena) return std::unexpected(arena.error());
      lanes[i].device = raw[i];
      lanes[i].arena = std::move(*arena);
      scripts[i].seed = random();
      lanes[i].session = tests::make_scripted_session(names[i], lanes[i].arena->range(), scripts[i], models[i]);
      if (!group.empty()) lanes[i].member = std::move(group[i]);
    }
    return push(plan, manifest, [this](auto offset, auto limit) { return resting(offset, limit); }, std::move(lanes),
                deadlines, before_first_bucket, progress, stop);
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
  BeforeFirstBucket before_first_bucket = [this]() -> Result<> {
    ++touches;
    return {};
  };
  std::atomic<int> touches = 0;
  Progress progress;
  plan::Plan plan;
};

void check_both_fan_outs(std::uint32_t members, std::uint64_t bucket_bytes, std::uint64_t arena_bytes) {
  for (auto fan_out : {plan::FanOut::independent, plan::FanOut::broadcast}) {
    INFO(plan::name_of(fan_out) << " to " << members << ", bucket " << bucket_bytes << ", arena " << arena_bytes);
    Bench bench(members);
    auto report = bench.run(fan_out, std::vector<Script>(members), {}, bucket_bytes, arena_bytes);
    REQUIRE(report);
    for (auto& model : bench.models) {
      bench.check_model(*model);
      CHECK(model->steps.front() == "offer");
      CHECK(model->steps[model->steps.size() - 2] == "release");
      CHECK(model->steps.back() == "finish");
      CHECK(model->steps.size() == bench.plan.buckets.size() + 3);
    }
    CHECK(bench.touches == 1);
    CHECK(bench.progress.reloaded_bytes == members * bench.plan.tensor_bytes);
    REQUIRE(report->lanes.size() == members);
    CHECK(report->lanes[0].bytes == bench.plan.tensor_bytes);
  }
}

}  // namespace

TEST_CASE("every rank gets every byte, whatever legal order the devices choose") {
  for (std::uint32_t members = 1; members <= 4; ++members) {
    check_both_fan_outs(members, 4096, 3 * 4096);
    check_both_fan_outs(members, 4096, 4096);       // one slot: nothing overlaps
    check_both_fan_outs(members, 3000, 64 * 1024);  // many slots
    check_both_fan_outs(members, 1 << 20, 1 << 20); // one bucket
  }
}

TEST_CASE("the first failure ends all lanes and fails every session") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  Bench bench(3);
  std::vector<Script> scripts(3);
  SECTION("a rank raises in a bucket") { scripts[1].fail_at_bucket = 2; }
  SECTION("a rank cannot open the memory") { scripts[1].fails_open = true; }
  SECTION("a rank raises in its post hook") { scripts[1].fails_finish = true; }
  SECTION("a rank stalls") {
    scripts[1].stall_at_bucket = 3;
    bench.deadlines.reload = 200ms;
  }
  SECTION("a rank never connects") {
    scripts[1].never_connects = true;
    bench.deadlines.connect = 200ms;
  }
  auto report = bench.run(fan_out, scripts);
  REQUIRE_FALSE(report);
  INFO(report.error().sentence);
  CHECK(report.error().sentence.find("HOST-1") != std::string::npos);
  CHECK_FALSE(bench.models[1]->failed.empty());
  for (auto& model : bench.models) {
    // Who had finished before is done; nobody else is left waiting.
    const bool finished = !model->steps.empty() && model->steps.back() == "finish";
    CHECK((finished || !model->failed.empty()));
    CHECK_FALSE(model->broke_lockstep);
  }
}

TEST_CASE("a cancel before the first bucket touches nobody") {
  Bench bench(2);
  std::vector<Script> scripts(2);
  scripts[0].never_connects = scripts[1].never_connects = true;
  std::stop_source stop;
  std::jthread later([&] {
    std::this_thread::sleep_for(50ms);
    stop.request_stop();
  });
  auto report = bench.run(plan::FanOut::independent, scripts, stop.get_token());
  REQUIRE_FALSE(report);
  CHECK(report.error().kind == ErrorKind::cancelled);
  CHECK_FALSE(bench.progress.touched);
  CHECK(bench.touches == 0);
}

TEST_CASE("a cancel in the middle wakes lanes that wait for a rank") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  Bench bench(2);
  std::vector<Script> scripts(2);
  scripts[0].stall_at_bucket = 1;
  std::stop_source stop;
  std::jthread later([&] {
    while (!bench.progress.touched) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);
    stop.request_stop();
  });
  const auto start = Clock::now();
  auto report = bench.run(fan_out, scripts, stop.get_token());
  REQUIRE_FALSE(report);
  CHECK(report.error().kind == ErrorKind::cancelled);
  CHECK(Clock::now() - start < 4s);  // sooner than any deadline here
}

TEST_CASE("what is refused before the first bucket ends the push while it is clean") {
  Bench bench(2);
  bench.before_first_bucket = []() -> Result<> { return fail(ErrorKind::no_space, "the journal's disk is full"); };
  auto report = bench.run(plan::FanOut::independent, std::vector<Script>(2));
  REQUIRE_FALSE(report);
  CHECK(report.error().kind == ErrorKind::no_space);
  CHECK_FALSE(bench.progress.touched);
  for (auto& model : bench.models) CHECK(model->tensors.empty());
}

TEST_CASE("a device that fails at any call ends the push with its error and never with wrong bytes") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  using tests::Call;
  for (auto call : {Call::make_stream, Call::make_event, Call::export_to_processes, Call::copy_from_host, Call::record,
                    Call::wake_when_done, Call::work_copy_from_host, Call::allocate, Call::copy, Call::wait,
                    Call::work_copy, Call::open}) {
    for (unsigned n : {1u, 2u, 7u}) {
      Bench bench(2);
      bench.deadlines.upload = 1s;
      bench.shuffler.fail_nth(call, n, "HOST-1");
      auto report = bench.run(fan_out, std::vector<Script>(2));
      INFO("call " << static_cast<int>(call) << " number " << n);
      if (report) {
        for (auto& model : bench.models) bench.check_model(*model);
      } else {
        INFO(report.error().sentence);
        CHECK(report.error().sentence.find("injected") != std::string::npos);
      }
    }
  }
}

TEST_CASE("an upload that never ends is told from a rank that stalls") {
  Bench bench(1);
  bench.deadlines.upload = 200ms;
  bench.shuffler.pause();
  std::jthread later([&] {
    std::this_thread::sleep_for(1s);
    bench.shuffler.resume();  // or the stream could not be destroyed
  });
  auto report = bench.run(plan::FanOut::independent, std::vector<Script>(1));
  REQUIRE_FALSE(report);
  CHECK(report.error().kind == ErrorKind::timed_out);
  CHECK(report.error().sentence.find("uploading bucket 0") != std::string::npos);
  CHECK_FALSE(bench.progress.touched);
}

TEST_CASE("an arena shrinks on out of memory, down to the largest tensor") {
  tests::Shuffler shuffler(1);
  auto device = shuffler.wrap(device::host::make_host_device(0));
  auto arena = allocate_arena(*device, std::uint64_t{1} << 60, 8 * kMiB);
  REQUIRE(arena);
  CHECK((*arena)->range().bytes >= 8 * kMiB);
  auto refused = allocate_arena(*device, std::uint64_t{1} << 60, std::uint64_t{1} << 59);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(refused.error().sentence.find("HOST-0") != std::string::npos);
}
