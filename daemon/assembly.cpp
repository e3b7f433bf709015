#include "daemon/assembly.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>

#include "common/directory_lock.h"
#include "common/group.h"
#include "common/units.h"
#include "daemon/assembly_collective.h"
#include "daemon/assembly_transfer.h"
#include "daemon/control/server.h"
#ifdef CKPTD_HAVE_CUDA
#include "daemon/device/cuda/cuda_device.h"
#endif
#include "daemon/device/host/host_device.h"
#include "daemon/fleet/lmdeploy/lmdeploy_engine.h"
#include "daemon/fleet/sglang/sglang_engine.h"
#include "daemon/fleet/vllm/vllm_engine.h"
#include "daemon/metrics/metrics.h"
#include "daemon/operations/make.h"
#include "daemon/ranks/checkpoint_engine/endpoints.h"
#include "daemon/ranks/receipts/receipts.h"

namespace ckptd {
namespace {

namespace api = proto::control;

using Devices = std::vector<std::unique_ptr<device::Device>>;

#ifdef CKPTD_HAVE_CUDA
Result<Devices> make_cuda_devices(const config::Config& config) {
  return device::cuda::make_cuda_devices(
      {.library = config.cuda_library, .devices = config.cuda_devices, .system_root = "/"});
}
#else
Result<Devices> make_cuda_devices(const config::Config&) {
  return fail(ErrorKind::unsupported, "this build has no CUDA: set [device] kind (--device) to host or auto");
}
#endif

/// Host memory only where it was asked for, or where auto finds no GPU: never in place of GPUs that are meant to be there.
Result<Devices> make_devices(const config::Config& config) {
  if (config.device != config::DeviceKind::host) {
    auto gpus = make_cuda_devices(config);
    if (gpus || config.device == config::DeviceKind::cuda) return gpus;
    spdlog::warn("device auto means {} host device(s): {}", config.host_devices, gpus.error().sentence);
  }
  Devices devices;
  for (unsigned i = 0; i < config.host_devices; ++i) devices.push_back(device::host::make_host_device(i));
  return devices;
}

Result<std::unique_ptr<fleet::Engine>> make_engine(const journal::EngineRecord& engine,
                                                   std::chrono::milliseconds connect) {
  auto address = CKPTD_TRY(address_of(engine, connect));
  if (engine.kind == "sglang") return fleet::sglang::make_engine(std::move(address));
  if (engine.kind == "vllm") return fleet::vllm::make_engine(std::move(address));
  if (engine.kind == "lmdeploy") return fleet::lmdeploy::make_engine(std::move(address));
  std::string known;
  for (const auto& each : fleet::known_kinds()) known += (known.empty() ? "" : ", ") + each;
  return fail(ErrorKind::invalid_argument, "'{}' is not a kind of engine that this build speaks to; it knows: {}",
              engine.kind, known);
}

store::LockPolicy policy_of(config::Lock lock) {
  switch (lock) {
    case config::Lock::required: return store::LockPolicy::required;
    case config::Lock::try_: return store::LockPolicy::try_;
    case config::Lock::off: break;
  }
  return store::LockPolicy::off;
}

store::PrefaultPolicy policy_of(config::Prefault prefault) {
  switch (prefault) {
    case config::Prefault::background: return store::PrefaultPolicy::background;
    case config::Prefault::before_ready: return store::PrefaultPolicy::before_ready;
    case config::Prefault::off: break;
  }
  return store::PrefaultPolicy::off;
}

std::string name_of(config::Lock lock) {
  switch (lock) {
    case config::Lock::required: return "required";
    case config::Lock::try_: return "try";
    case config::Lock::off: break;
  }
  return "off";
}

std::optional<plan::FanOut> fan_out_of(config::FanOut fan_out) {
  switch (fan_out) {
    case config::FanOut::independent: return plan::FanOut::independent;
    case config::FanOut::broadcast: return plan::FanOut::broadcast;
    case config::FanOut::automatic: break;
  }
  return std::nullopt;
}

prefetch::IoPriority io_priority_of(config::IoPriority priority) {
  switch (priority) {
    case config::IoPriority::best_effort: return prefetch::IoPriority::best_effort;
    case config::IoPriority::idle: return prefetch::IoPriority::idle;
    case config::IoPriority::none: break;
  }
  return prefetch::IoPriority::none;
}

operations::Options operations_options(const config::Config& config) {
  operations::Options options;
  options.source = {config.source_roots, config.direct_io};
  options.prefetch.readers = config.prefetch_readers;
  options.prefetch.hashers = config.prefetch_hashers;
  options.prefetch.io_uring = config.prefetch_io_uring;
  options.prefetch.queue_depth = config.prefetch_queue_depth;
  options.prefetch.read_bytes = config.prefetch_read_bytes;
  options.prefetch.no_progress = config.load_no_progress;
  options.prefetch.priority = {config.prefetch_nice, io_priority_of(config.prefetch_io_priority)};
  options.prefetch.throttle = std::make_shared<prefetch::Throttle>(config.prefetch_max_bytes_per_second);
  options.deadlines = {config.connect_timeout, config.reload_timeout, config.release_timeout, config.finish_timeout,
                       config.upload_timeout, config.receipt_timeout};
  options.engine_timeout = config.engine_timeout;
  options.ping_timeout = config.ping_timeout;
  options.engine_step = config.engine_step_timeout;
  options.engine_poll = config.engine_poll;
  options.engine_poll_slowest = config.engine_poll_slowest;
  options.engine_retry = config.engine_retry;
  options.engine_retry_slowest = config.engine_retry_slowest;
  options.answer_grace = config.answer_grace;
  options.rank_grace = config.rank_grace;
  options.load_answer = config.load_answer;
  options.bucket_bytes = config.bucket_bytes;
  options.arena_bytes = config.arena_bytes;
  options.keep_arena = config.keep_arena;
  options.receipt_required = config.receipt == config::Receipt::required;
  options.fan_out = fan_out_of(config.fan_out);
  options.lock = name_of(config.lock);
  options.job_history = config.job_history;
  options.record_memory_bytes = config.record_memory_bytes;
  options.probe_at_start = config.probe_at_start;
  for (const auto& preload : config.preloads)
    options.preloads.push_back({preload.checkpoint, preload.source, preload.keep});
  return options;
}

std::string name_of(config::Wake wake) {
  switch (wake) {
    case config::Wake::weights: return "weights";
    case config::Wake::all: return "all";
    case config::Wake::none: break;
  }
  return "none";
}

api::EngineRequest request_of(const config::Engine& engine) {
  return {.name = engine.name,
          .kind = engine.kind,
          .endpoint = engine.endpoint,
          .checkpoint = engine.checkpoint,
          .devices = engine.devices,
          .api_key_file = engine.api_key_file,
          .admin_key_file = engine.admin_key_file,
          .transfer = engine.transfer,
          .target = engine.target,
          .follow = engine.follow,
          .wake = name_of(engine.wake),
          .pause = engine.pause,
          .flush_cache = engine.flush_cache,
          .on_failure = engine.on_failure};
}

/// Engines of the configuration are registered at every start; what the journal knows of an engine stays.
Result<> seed_engines(operations::Operations& operations, const config::Config& config) {
  for (const auto& engine : config.engines)
    if (auto put = operations.put_engine(request_of(engine)); !put)
      return std::unexpected(put.error().within("engine " + engine.name + " of the configuration"));
  return {};
}

class Running final : public Assembly {
 public:
  Running(const config::Config& config, std::function<Result<config::Config>()> read_again)
      : config_(config), read_again_(std::move(read_again)), jobs_(config.job_history),
        counted_jobs_(metrics_.follow(jobs_)) {}

  /// Jobs use the operations and all below them: they end first, also when start() came only half way.
  ~Running() override {
    metrics_server_.reset();
    server_.reset();
    if (collective_) collective_->close(Deadline::in(shutdown_timeout()));
    if (transfers_) transfers_->close(Deadline::in(shutdown_timeout()));
    jobs_.shutdown();
  }

  Result<> start() {
    std::error_code error;
    std::filesystem::create_directories(config_.runtime_dir, error);
    if (error)
      return fail(ErrorKind::io, "create the runtime directory {}: {} (--runtime-dir)", config_.runtime_dir.string(),
                  error.message());
    // Two daemons in one runtime directory would sweep each other's sockets away.
    runtime_lock_ = CKPTD_TRY(lock_directory(config_.runtime_dir, "runtime directory", "--runtime-dir"));
    journal_ = CKPTD_TRY(journal::Journal::open(config_.state_dir));
    peaks_ = std::make_unique<journal::Peaks>(config_.state_dir / "peaks.json");
    devices_ = CKPTD_TRY(make_devices(config_));
    std::vector<device::Device*> devices;
    for (const auto& each : devices_) devices.push_back(each.get());
    store_ = CKPTD_TRY(store::Store::create({.budget_bytes = config_.store_budget_bytes,
                                             .segment_bytes = config_.segment_bytes,
                                             .lock = policy_of(config_.lock),
                                             .huge_pages = config_.huge_pages,
                                             .prefault = policy_of(config_.prefault)},
                                            devices));
    collective_ = CKPTD_TRY(Collective::choose(config_, devices));
    catalogue_ = std::make_unique<catalogue::Catalogue>();
    endpoints_ = CKPTD_TRY(ranks::checkpoint_engine::make_endpoints(
        {config_.runtime_dir / "r", config_.rank_group, config_.custody}));
    const auto receipts = std::make_shared<ranks::Receipts>(ranks::Receipts::Options{
        .group = config_.rank_group.empty() ? std::nullopt
                                            : std::optional(CKPTD_TRY(gid_of(config_.rank_group, "rank_group")))});
    transfers_ = Transfers::create(config_, receipts);
    operations_ = operations::make_operations(
        {*catalogue_, *store_, jobs_, *journal_, *endpoints_, devices,
         [this](const auto& members, const auto& names, auto stop) {
           return collective_->make_group(members, names, std::move(stop));
         },
         [connect = config_.engine_connect_timeout](const auto& engine) { return make_engine(engine, connect); },
         *peaks_, [this] { return reread(); }, [this] { return collective_->drop_idle() + transfers_->drop_idle(); },
         [this](const auto& engine, const auto& weight_version, const auto& way) {
           return transfers_->make(engine, weight_version, way);
         }},
        operations_options(config_));
    CKPTD_TRY(seed_engines(*operations_, config_));
    operations_->start_watching();
    server_ = CKPTD_TRY(control::Server::start(control_options(), *operations_));
    return serve_metrics();
  }

  api::Status status() const override { return operations_->status(); }

  void reload() override { static_cast<void>(operations_->reload()); }  // which logs and remembers its outcome

  Result<> check_alive(Deadline deadline) override {
    CKPTD_TRY(server_->check_alive(deadline));
    return endpoints_->check_alive(deadline);
  }

  std::chrono::milliseconds shutdown_timeout() const override { return config().shutdown; }

  void stop() override {
    operations_->stop_watching();  // a look that is under way may last as long as timeouts.ping
    metrics_server_.reset();
    server_.reset();
    const auto by = Deadline::in(shutdown_timeout());
    collective_->close(by);
    transfers_->close(by);
    jobs_.shutdown();  // updates fail their sessions, the custodian answers the ranks
    const auto waiting = endpoints_->drain(Deadline::in(shutdown_timeout()));
    for (const auto& open : waiting)
      spdlog::warn("a rank of {} on {} may still wait on {}: the next ckptd with this runtime and state directory frees it",
                   open.engine.empty() ? "an earlier update" : open.engine, open.device, open.endpoint);
  }

 private:
  control::Options control_options() {
    control::Options options;
    options.socket = config_.runtime_dir / "control.sock";
    options.group = config_.control_group;
    options.read_timeout = config_.control_read_timeout;
    options.handler_timeout = config_.control_handler_timeout;
    options.write_timeout = config_.control_write_timeout;
    options.drain_timeout = config_.control_drain;
    options.bind_timeout = config_.control_bind_timeout;
    options.on_answer = [this](std::string_view method, std::string_view route, unsigned status) {
      metrics_.count_request(method, route, status);
    };
    options.on_event_clients = [this](std::size_t clients) { metrics_.set_event_clients(clients); };
    return options;
  }

  Result<> serve_metrics() {
    if (config_.metrics_listen.empty()) return {};
    auto server = control::Server::start_metrics({config_.metrics_listen, config_.control_group}, *operations_,
                                                 [this] { return metrics_.text(*operations_); });
    if (!server) return std::unexpected(server.error().within("[metrics] listen (--metrics-listen)"));
    metrics_server_ = *std::move(server);
    return {};
  }

  config::Config config() const {
    std::lock_guard lock(config_mutex_);
    return config_;
  }

  Result<operations::Reread> reread() {
    const auto running = config();
    const auto wanted = CKPTD_TRY(read_again_());
    auto reloaded = CKPTD_TRY(config::reload(running, wanted));
    operations::Reread reread{.options = operations_options(reloaded.config),
                              .engines = {},
                              .applied = reloaded.applied,
                              .needs_restart = reloaded.needs_restart,
                              .adopt = {}};
    for (const auto& engine : reloaded.config.engines)
      if (std::ranges::find(running.engines, engine) == running.engines.end())
        reread.engines.push_back(request_of(engine));
    reread.adopt = [this, config = std::move(reloaded.config)] {
      spdlog::set_level(spdlog::level::from_str(config.log_level));
      std::lock_guard lock(config_mutex_);
      config_ = config;
    };
    return reread;
  }

  mutable std::mutex config_mutex_;
  config::Config config_;  ///< under config_mutex_ once start() has returned: the values in effect
  std::function<Result<config::Config>()> read_again_;
  UniqueFd runtime_lock_;
  metrics::Metrics metrics_;
  std::unique_ptr<journal::Journal> journal_;
  std::unique_ptr<journal::Peaks> peaks_;
  std::vector<std::unique_ptr<device::Device>> devices_;
  std::unique_ptr<Collective> collective_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<catalogue::Catalogue> catalogue_;
  std::unique_ptr<ranks::Endpoints> endpoints_;
  std::unique_ptr<Transfers> transfers_;
  jobs::Registry jobs_;
  Subscription counted_jobs_;
  std::unique_ptr<operations::Operations> operations_;
  std::unique_ptr<control::Server> server_;
  std::unique_ptr<control::Server> metrics_server_;
};

}  // namespace

Result<std::unique_ptr<Assembly>> Assembly::build(const config::Config& config,
                                                  std::function<Result<config::Config>()> reread) {
  auto running = std::make_unique<Running>(config, std::move(reread));
  CKPTD_TRY(running->start());
  return running;
}

}  // namespace ckptd
