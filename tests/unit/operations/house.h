// Real rooms around fake ranks and a fake engine, for tests of the use cases.
#pragma once

#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/units.h"
#include "daemon/collective/local/local_group.h"
#include "daemon/device/host/host_device.h"
#include "daemon/operations/make.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/support/cuda_like_device.h"
#include "tests/unit/operations/fakes.h"

namespace ckptd::tests {

using namespace std::chrono_literals;

struct House {
  /// Segments are of 2 MiB.
  explicit House(std::uint64_t budget_bytes = 64 * kMiB, bool exports_as_gpus = false) {
    for (unsigned i = 0; i < 2; ++i) {
      devices.push_back(device::host::make_host_device(i));
      if (exports_as_gpus) devices.back() = std::make_unique<CudaLikeDevice>(std::move(devices.back()));
    }
    for (auto& each : devices) raw.push_back(each.get());
    store = *store::Store::create({.budget_bytes = budget_bytes, .lock = store::LockPolicy::off, .huge_pages = false}, raw);
    deadlines = {60s, 60s, 60s, 60s, 60s, 2s};  // a test that awaits one of them sets it
    start();
  }

  /// Also what a restart is: the journal and the endpoints are what a successor finds.
  void start() {
    if (jobs) jobs->shutdown();
    operations.reset();
    jobs.reset();
    journal.reset();
    catalogue = std::make_unique<catalogue::Catalogue>();
    journal = *journal::Journal::open(folder / "state");
    peaks = std::make_unique<journal::Peaks>(folder / "state/peaks.json");
    jobs = std::make_unique<jobs::Registry>(50);
    operations::Options options;
    options.deadlines = deadlines;
    options.answer_grace = answer_grace;
    options.engine_poll = 10ms;
    options.engine_poll_slowest = 40ms;
    options.engine_retry = engine_retry;
    options.engine_retry_slowest = 10 * engine_retry;
    options.ping_timeout = ping_timeout;
    options.bucket_bytes = 4096;
    options.arena_bytes = arena_bytes;
    options.receipt_required = receipt_required;
    options.preloads = preloads;
    options.probe_at_start = probe_at_start;
    options.record_memory_bytes = record_memory_bytes;
    options.prefetch.throttle = throttle;
    operations = operations::make_operations(
        {*catalogue, *store, *jobs, *journal, endpoints, raw,
         [](const auto& members, const auto& names, auto) { return collective::local::make_group(members, names); },
         [this](const journal::EngineRecord& engine) -> Result<std::unique_ptr<fleet::Engine>> {
           return std::make_unique<FakeEngine>(behaviour_of(engine.name), endpoints);
         },
         *peaks, [this] { return reread(); }, {}, make_transfer},
        options);
    operations->start_watching();
  }

  ~House() {
    jobs->shutdown();
    operations.reset();
  }

  std::string checkpoint(const std::string& name, std::uint64_t seed, const std::string& dtype = "F32") {
    write_checkpoint(folder / name,
                     {{random_tensor("a", dtype, {64, 32}, seed), random_tensor("b", "BF16", {7}, seed)}}, false);
    return "file://" + (folder / name).string();
  }

  Result<proto::control::Job> load(const std::string& version, const std::string& uri) {
    auto job = operations->load({"m", version, uri, false, ""});
    if (!job) return job;
    return operations->wait_job(job->id, Deadline::in(30s));
  }

  void load_or_die(const std::string& version, std::uint64_t seed) {
    auto job = load(version, checkpoint("v" + version, seed));
    REQUIRE(job);
    REQUIRE(job->state == "succeeded");
  }

  /// From now on this engine has a server of its own.
  std::shared_ptr<FakeEngine::Behaviour> own_server(const std::string& name) {
    std::lock_guard lock(behaviours_mutex);
    return behaviours[name] = std::make_shared<FakeEngine::Behaviour>();
  }

  std::shared_ptr<FakeEngine::Behaviour> behaviour_of(const std::string& name) {
    std::lock_guard lock(behaviours_mutex);
    const auto own = behaviours.find(name);
    return own == behaviours.end() ? behaviour : own->second;
  }

  /// One that the daemon leaves alone, also when an update fails: tests of updates begin them themselves.
  void add_engine(const std::string& name = "e", std::vector<std::string> devices = {},
                  const std::string& on_failure = "hold") {
    REQUIRE(operations->put_engine({.name = name, .kind = "sglang", .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                                    .devices = std::move(devices), .follow = false, .on_failure = on_failure}));
  }

  /// One that the daemon brings to its target.
  void follow_engine(const std::string& name = "e", const std::string& target = "", const std::string& wake = "none") {
    REQUIRE(operations->put_engine({.name = name, .kind = wake == "none" ? "sglang" : "vllm",
                                    .endpoint = "http://127.0.0.1:1", .checkpoint = "m", .devices = {}, .target = target,
                                    .wake = wake}));
  }

  static proto::control::UpdateRequest to(const std::string& version) {
    proto::control::UpdateRequest request;
    request.name = "m";
    request.version = version;
    return request;
  }

  proto::control::Job run_update(const proto::control::UpdateRequest& request) {
    auto job = operations->update(request);
    REQUIRE(job);
    auto ended = operations->wait_job(job->id, Deadline::in(30s));
    REQUIRE(ended);
    REQUIRE(ended->state != "running");
    return *ended;
  }

  decltype(operations::Parts::make_transfer) make_transfer;  ///< see FakeTransfer
  std::function<Result<operations::Reread>()> reread = [] { return operations::Reread{}; };  ///< what a reload finds
  Folder folder;
  std::vector<std::unique_ptr<device::Device>> devices;
  std::vector<device::Device*> raw;
  FakeEndpoints endpoints;
  std::shared_ptr<FakeEngine::Behaviour> behaviour = std::make_shared<FakeEngine::Behaviour>();
  std::mutex behaviours_mutex;
  std::map<std::string, std::shared_ptr<FakeEngine::Behaviour>> behaviours;  ///< of engines that have a server of their own
  std::chrono::milliseconds engine_retry{50}, ping_timeout{500};
  /// The engine says yes as the last rank is sent its finish: its lanes have as long to see that acknowledged.
  std::chrono::milliseconds answer_grace{5'000};
  pipeline::Deadlines deadlines;
  std::uint64_t arena_bytes = 0;
  bool receipt_required = true;
  std::vector<operations::Preload> preloads;
  bool probe_at_start = false;
  std::uint64_t record_memory_bytes = kMiB;
  std::shared_ptr<prefetch::Throttle> throttle;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<catalogue::Catalogue> catalogue;
  std::unique_ptr<journal::Journal> journal;
  std::unique_ptr<journal::Peaks> peaks;
  std::unique_ptr<jobs::Registry> jobs;
  std::unique_ptr<operations::Operations> operations;
};

/// As the API shows it.
inline proto::control::Engine engine(const House& house, const std::string& name = "e") {
  auto shown = house.operations->engine(name);
  REQUIRE(shown);
  return *shown;
}

inline bool serves(const House& house, const std::string& version, const std::string& name = "e") {
  const auto shown = engine(house, name);
  return shown.state == "serving" && shown.serving == version && shown.ready;
}

}  // namespace ckptd::tests
