// What becomes of arenas on GPUs, seen from outside: results, status and the memory itself.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/unit/operations/house.h"
#include "tests/unit/operations/soon.h"

using namespace ckptd;
using tests::CudaLikeDevice;
using tests::FakeHold;
using tests::House;
using tests::soon;
using namespace std::chrono_literals;

namespace {

/// Two devices that export as GPUs do, each with a rank whose hold the test decides on.
struct Gpus : House {
  explicit Gpus(bool required = true) : House(64 * kMiB, true) {
    receipt_required = required;
    deadlines.receipt = 50ms;
    start();
    for (const auto* name : {"HOST-0", "HOST-1"}) endpoints.holds[name] = std::make_shared<FakeHold>("e", name, 4242);
    load_or_die("1", 1);
    add_engine();
  }

  FakeHold& hold(const std::string& device) { return *endpoints.holds[device]; }
  void all_let_go() {
    for (auto& [name, hold] : endpoints.holds) hold->released = true;
  }

  proto::control::DeviceStatus device(std::size_t number) const { return operations->status().devices.at(number); }

  /// Allocations that are there.
  int held() const {
    int count = 0;
    for (const auto& each : devices) {
      const auto& device = dynamic_cast<const CudaLikeDevice&>(*each);
      count += device.allocated - device.freed;
    }
    return count;
  }
};

nlohmann::json engine_report(const proto::control::Job& job) {
  return nlohmann::json::parse(job.result).at("engines").at(0);
}

}  // namespace

TEST_CASE("with its receipts there an arena is kept, and the next update has it") {
  Gpus gpus;
  gpus.all_let_go();
  for (int i = 0; i < 2; ++i) {
    const auto job = gpus.run_update(House::to("1"));
    REQUIRE(job.state == "succeeded");
    const auto report = engine_report(job);
    CHECK(report.at("warnings").empty());
    CHECK(report.at("lanes").at(0).at("receipt") == "seen");
    CHECK(std::ranges::count(job.stages, "receipt", &proto::control::StageTime::name) == 1);
    CHECK(gpus.device(0).quarantined_bytes == 0);
    CHECK(gpus.device(0).kept_arena_bytes > 0);
    CHECK(gpus.held() == 2);
  }
}

TEST_CASE("a missing receipt is a warning of an update that succeeded, and a quarantine in status") {
  Gpus gpus;
  gpus.hold("HOST-0").released = true;
  const auto job = gpus.run_update(House::to("1"));
  REQUIRE(job.state == "succeeded");
  CHECK(gpus.operations->engine("e")->serving == "m@1");
  const auto report = engine_report(job);
  REQUIRE(report.at("warnings").size() == 1);
  const auto warning = report.at("warnings").at(0).get<std::string>();
  INFO(warning);
  for (const auto* word : {"HOST-1", "pid 7", "no receipt", "quarantine", "has not unmapped"})
    CHECK(warning.find(word) != std::string::npos);
  CHECK(report.at("lanes").at(1).at("receipt") == "missing");

  CHECK(gpus.device(0).quarantined_bytes == 0);
  CHECK(gpus.device(0).kept_arena_bytes > 0);
  const auto held = gpus.device(1);
  CHECK(held.kept_arena_bytes == 0);
  CHECK(held.quarantined_bytes > 0);
  REQUIRE(held.quarantine.size() == 1);
  CHECK(held.quarantine[0].bytes == held.quarantined_bytes);
  CHECK(held.quarantine[0].engine == "e");
  CHECK(held.quarantine[0].pids == std::vector<int>{4242});
  CHECK(held.quarantine[0].why == "the rank has not unmapped the memory");

  gpus.operations->trim();
  CHECK(gpus.held() == 1);  // trim leaves it
  REQUIRE(gpus.run_update(House::to("1")).state == "succeeded");
  CHECK(gpus.device(1).quarantine.size() == 2);

  gpus.all_let_go();
  CHECK(soon([&] { return gpus.device(1).quarantined_bytes == 0 && gpus.device(1).kept_arena_bytes > 0; }));
  CHECK(soon([&] { return gpus.held() == 2; }));  // one arena a device is kept
}

TEST_CASE("success is written down before receipts are waited for: a daemon that dies then leaves a well engine") {
  // Where the daemon is held up for as long afterwards, that is what bounds the update: then once more.
  for (const auto longer : {500ms, 5'000ms}) {
    Gpus gpus;
    gpus.deadlines.receipt = 60s;
    gpus.start();
    gpus.load_or_die("1", 1);
    const auto start = Clock::now();
    const auto job = gpus.operations->update(House::to("1"));
    REQUIRE(job);
    REQUIRE(soon([&] { return gpus.hold("HOST-0").looks > 0; }));
    CHECK(gpus.operations->job(job->id)->state == "running");
    // What a successor finds.
    const auto written = gpus.journal->contents();
    CHECK(written.updates.empty());
    REQUIRE(written.engines.size() == 1);
    CHECK(written.engines[0].poisoned.empty());
    REQUIRE(written.engines[0].serving);
    CHECK(written.engines[0].serving->id == "m@1");
    std::this_thread::sleep_for(Clock::now() - start + longer);  // than all else together took
    gpus.all_let_go();
    const auto ended = gpus.operations->wait_job(job->id, Deadline::in(10s));
    REQUIRE(ended);
    CHECK(ended->state == "succeeded");
    REQUIRE(ended->record);
    const auto& push = ended->record->engines.at(0);
    CHECK(std::ranges::count(push.steps, "receipt", &proto::control::StageFigure::name) == 1);
    CHECK(std::ranges::count(push.lanes.at(0).stages, "receipt", &proto::control::StageFigure::name) == 1);
    if (push.bounded_by != "finish" && longer < 5s) continue;
    CHECK(push.bounded_by == "finish");  // the rank, which took so long to unmap
    CHECK(push.because.find("pid 7") != std::string::npos);
    break;
  }
}

TEST_CASE("an advisory receipt that is missing is noted, and the arena used again") {
  Gpus gpus(false);
  for (int i = 0; i < 2; ++i) {
    const auto job = gpus.run_update(House::to("1"));
    REQUIRE(job.state == "succeeded");
    const auto report = engine_report(job);
    REQUIRE(report.at("warnings").size() == 2);
    CHECK(report.at("warnings").at(0).get<std::string>().find("advisory") != std::string::npos);
    CHECK(gpus.device(0).quarantined_bytes == 0);
    CHECK(gpus.device(0).kept_arena_bytes > 0);
    CHECK(gpus.held() == 2);
  }
}

TEST_CASE("after an update that failed arenas are freed only when nobody maps them, advisory or not") {
  Gpus gpus(GENERATE(true, false));
  gpus.endpoints.fail_reload_on = "HOST-1";
  gpus.hold("HOST-0").released = true;
  const auto job = gpus.run_update(House::to("1"));
  REQUIRE(job.state == "failed");
  CHECK(gpus.device(1).quarantined_bytes > 0);
  CHECK(gpus.device(1).kept_arena_bytes == 0);
  CHECK(soon([&] { return gpus.held() == 1; }));
  gpus.all_let_go();
  CHECK(soon([&] { return gpus.held() == 0; }));
  CHECK(gpus.device(1).quarantined_bytes == 0);
}

TEST_CASE("host memory is freed and used again whatever a rank still maps") {
  House house;
  for (const auto* name : {"HOST-0", "HOST-1"}) house.endpoints.holds[name] = std::make_shared<FakeHold>();
  house.load_or_die("1", 1);
  house.add_engine();
  const auto job = house.run_update(House::to("1"));
  REQUIRE(job.state == "succeeded");
  CHECK(engine_report(job).at("lanes").at(0).at("receipt") == "not needed");
  CHECK(house.operations->status().devices[0].kept_arena_bytes > 0);
  CHECK(house.operations->status().devices[0].quarantined_bytes == 0);
}

TEST_CASE("advisory believes a rank that has finished only when the update has not failed for another") {
  Gpus gpus(GENERATE(true, false));
  gpus.endpoints.fail_reload_on = "HOST-1";
  // Longer than the other rank needs for everything.
  gpus.endpoints.on_raise = [&] { REQUIRE(soon([&] { return gpus.endpoints.finished() == 1; })); };
  const auto job = gpus.run_update(House::to("1"));
  REQUIRE(job.state == "failed");
  CHECK(gpus.endpoints.finished() == 1);
  CHECK(gpus.device(0).quarantined_bytes > 0);
  CHECK(gpus.device(1).quarantined_bytes > 0);
  CHECK(gpus.held() == 2);
  gpus.all_let_go();
  CHECK(soon([&] { return gpus.held() == 0; }));
}
