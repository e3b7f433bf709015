#include "daemon/fleet/vllm/vllm_engine.h"

#include "common/utf8.h"
#include "daemon/fleet/caller.h"
#include "proto/vllm/about.h"
#include "proto/vllm/control.h"
#include "proto/vllm/update_weights.h"

namespace ckptd::fleet::vllm {
namespace {

namespace wire = proto::vllm;

constexpr std::uint64_t kLargeAnswerBytes = 64 << 20;  // /server_info, /openapi.json, /metrics, checksums

constexpr std::string_view kStart =
    "start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment and "
    "--worker-extension-cls checkpoint_engine.worker.VllmColocateWorkerExtension";

class VllmEngine final : public Engine {
 public:
  explicit VllmEngine(Address address) : caller_(std::move(address)) {}

  Result<Observation> observe(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    const auto health = CKPTD_TRY(get(wire::kHealthTarget, deadline));
    Observation seen;
    if (health.status == 503) {
      seen.state = Observation::State::starting;
    } else {
      CKPTD_TRY(caller_.about(wire::read_done("GET /health", health.status, health.body, health.sent)));
      seen.state = CKPTD_TRY(awake_state(deadline));
    }
    const auto info = CKPTD_TRY(get(wire::kWeightInfoTarget, deadline));
    seen.weight_version = shown(wire::read_weight_version(info.status, info.body));
    seen.listener = caller_.listener();
    return seen;
  }

  Result<Description> describe(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    Description description;
    const auto version = CKPTD_TRY(get(wire::kVersionTarget, deadline));
    description.version = wire::read_version(version.status, version.body);
    const auto models = CKPTD_TRY(get(wire::kModelsTarget, deadline));
    // The only guarded route of those that are asked: here a wrong key shows.
    if (models.status == 401 || models.status == 403)
      CKPTD_TRY(caller_.about(wire::read_done("GET /v1/models", models.status, models.body, models.sent)));
    description.model = wire::read_model(models.status, models.body);
    const auto routes = CKPTD_TRY(routes_offered(deadline));
    if (routes.world_size) {
      const auto world = CKPTD_TRY(get(wire::kWorldTarget, deadline));
      description.ranks = wire::read_world_size(world.status, world.body).value_or(0);
      description.tensor_parallel = std::max(description.ranks, 1U);
    }
    std::optional<wire::ServerInfo> info;
    if (routes.server_info) {
      const auto answer = CKPTD_TRY(get(wire::kServerTarget, deadline));
      info = wire::read_server_info(answer.status, answer.body);
    }
    description.can_verify = routes.weight_checker;
    if (info) add(*info, routes, description);
    description.unsuitable = unsuitable(routes, info);
    return description;
  }

  std::optional<ProcessId> listener() const override { return caller_.listener(); }

  Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override {
    const auto deadline = Deadline::in(timeout);
    const auto answer = CKPTD_TRY(caller_.post(wire::kRpcTarget, wire::update_request_body(call.endpoints, timeout),
                                               Guard::admin, deadline, std::move(stop)));
    return caller_.about(wire::read_update_answer(answer.status, answer.body, answer.sent));
  }

  Result<> conclude(const UpdateCall& call, std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    if (call.flush_cache) CKPTD_TRY(flush_cache(deadline));
    if (call.weight_version.empty()) return {};
    const auto answer = CKPTD_TRY(
        caller_.post(wire::kLabelTarget, wire::label_body(call.weight_version), Guard::admin, deadline));
    return caller_.about(wire::read_done("POST /update_weight_version", answer.status, answer.body, answer.sent));
  }

  Result<> pause(Pause mode, std::chrono::milliseconds timeout, std::stop_token stop) override {
    CKPTD_TRY(check_pause("vllm", mode, false));
    if (mode == Pause::none) return {};
    return command("POST /pause", wire::pause_target(name_of(mode)), timeout, std::move(stop));
  }

  Result<> resume(std::chrono::milliseconds timeout) override {
    return command("POST /resume", wire::kResumeTarget, timeout);
  }

  /// A partial wake lets older servers go on scheduling requests while their cache is still released: pause after it.
  Result<> wake_weights(std::chrono::milliseconds timeout) override {
    return command("POST /wake_up", wire::kWakeWeightsTarget, timeout);
  }

  Result<> wake_rest(std::chrono::milliseconds timeout) override {
    return command("POST /wake_up", wire::kWakeCacheTarget, timeout);
  }

  Result<std::vector<RankChecksums>> checksums(std::chrono::milliseconds timeout) override {
    const auto answer = CKPTD_TRY(caller_.post(wire::kChecksumsTarget, wire::checksums_body(), Guard::admin,
                                               Deadline::in(timeout), {}, kLargeAnswerBytes));
    auto ranks = CKPTD_TRY(caller_.about(wire::read_checksums(answer.status, answer.body, answer.sent)));
    std::vector<RankChecksums> sums;
    for (auto& rank : ranks) sums.push_back({std::move(rank.rank), std::move(rank.by_tensor)});
    return sums;
  }

 private:
  Result<Answer> get(std::string_view target, Deadline deadline) const {
    return caller_.get(target, Guard::api, deadline, kLargeAnswerBytes);
  }

  /// Of a server that is healthy. One without development mode tells nothing and serves.
  Result<Observation::State> awake_state(Deadline deadline) const {
    const auto sleeping = CKPTD_TRY(get(wire::kSleepingTarget, deadline));
    const auto asleep = wire::read_truth(sleeping.status, sleeping.body, "is_sleeping");
    if (!asleep && sleeping.status == 404) return Observation::State::serving;
    const auto pausing = CKPTD_TRY(get(wire::kPausedTarget, deadline));
    const bool paused = wire::read_truth(pausing.status, pausing.body, "is_paused").value_or(false);
    if (!asleep.value_or(false)) return paused ? Observation::State::paused : Observation::State::serving;
    if (!paused) return Observation::State::asleep;
    const auto metrics = CKPTD_TRY(get(wire::kMetricsTarget, deadline));
    const bool has_memory = wire::read_awake(metrics.status, metrics.body).value_or(false);
    return has_memory ? Observation::State::paused : Observation::State::asleep;
  }

  /// A server without API documents (--disable-fastapi-docs) is asked for a route of development mode instead.
  Result<wire::Routes> routes_offered(Deadline deadline) const {
    const auto document = CKPTD_TRY(get(wire::kRoutesTarget, deadline));
    if (document.status == 200)
      if (const auto routes = wire::read_routes(document.body)) return *routes;
    const auto world = CKPTD_TRY(get(wire::kWorldTarget, deadline));
    const bool development = world.status == 200;
    return wire::Routes{.collective_rpc = development, .server_info = development, .world_size = development};
  }

  static void add(const wire::ServerInfo& info, const wire::Routes& routes, Description& description) {
    description.tensor_parallel = info.tensor_parallel;
    description.pipeline_parallel = info.pipeline_parallel;
    description.data_parallel = info.data_parallel;
    description.nodes = info.nodes;
    description.can_sleep = info.sleep_mode;
    description.quantization = info.quantization;
    description.moe_backend = info.moe_backend;
    if (routes.weight_transfer) description.weight_transfer = info.weight_transfer;
    description.has_extension = !info.extension.empty();
    if (info.nodes > 1 && info.weight_transfer != "nccl")
      description.warnings.push_back(fmt::format(
          "it runs on {} nodes: an update needs the endpoints of all of them in one request", info.nodes));
  }

  static std::optional<Error> unsuitable(const wire::Routes& routes, const std::optional<wire::ServerInfo>& info) {
    if (!routes.collective_rpc)
      return Error{ErrorKind::unsupported, fmt::format("it is not in development mode: {}", kStart)};
    const bool native =
        info && routes.weight_transfer && (info->weight_transfer == "ipc" || info->weight_transfer == "nccl");
    if (info && info->extension.empty() && !native)
      return Error{ErrorKind::unsupported, fmt::format("its workers cannot be given weights: {}; or, from vLLM 0.22 on, with "
                                                       "VLLM_ALLOW_INSECURE_SERIALIZATION=1 as well and "
                                                       "--weight-transfer-config '{{\"backend\":\"ipc\"}}'",
                                                       kStart)};
    return std::nullopt;
  }

  /// The cache of requests that are kept cannot be dropped under them; they are computed again then.
  Result<> flush_cache(Deadline deadline) const {
    for (const auto target : {wire::kResetCacheTarget, wire::kResetCacheOfRunningTarget}) {
      const auto answer = CKPTD_TRY(caller_.post(target, {}, Guard::admin, deadline));
      auto reset = wire::read_cache_reset(answer.status, answer.body, answer.sent);
      if (!reset && reset.error().kind == ErrorKind::unsupported) reset.error().kind = ErrorKind::peer_failed;
      if (CKPTD_TRY(caller_.about(std::move(reset)))) return {};
    }
    return fail(ErrorKind::peer_failed,
                "{} has the new weights, but did not flush its prefix cache: requests still hold blocks of it. Pause it "
                "with abort for the update, or keep the cache (--keep-cache)",
                caller_.who());
  }

  Result<> command(std::string_view request, std::string_view target, std::chrono::milliseconds timeout,
                   std::stop_token stop = {}) const {
    const auto answer = CKPTD_TRY(caller_.post(target, {}, Guard::admin, Deadline::in(timeout), std::move(stop)));
    return caller_.about(wire::read_done(request, answer.status, answer.body, answer.sent));
  }

  const Caller caller_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(Address address) { return std::make_unique<VllmEngine>(std::move(address)); }

}  // namespace ckptd::fleet::vllm
