#include "daemon/fleet/sglang/sglang_engine.h"

#include <cstdlib>

#include "common/utf8.h"
#include "daemon/fleet/caller.h"
#include "proto/sglang/about.h"
#include "proto/sglang/control.h"
#include "proto/sglang/update_weights.h"

namespace ckptd::fleet::sglang {
namespace {

namespace wire = proto::sglang;

constexpr std::uint64_t kLargeAnswerBytes = 64 << 20;  // /server_info, /openapi.json, checksums of every tensor

std::optional<Error> unsuitable(const wire::ServerInfo& info) {
  if (info.data_parallel > 1 && !info.data_parallel_attention)
    return Error{ErrorKind::unsupported,
                 fmt::format("it runs {} data-parallel replicas behind one server (--dp-size {}), and SGLang updates "
                             "weights only with --dp-size 1 or with --enable-dp-attention: start one server a replica",
                             info.data_parallel, info.data_parallel)};
  if (!info.weight_cache_mode.empty() && info.weight_cache_mode != "off")
    return Error{ErrorKind::unsupported,
                 fmt::format("it shares its weights through SGLang's weight cache (--weight-cache-mode {}), and takes no "
                             "others while it does: start it with --weight-cache-mode off",
                             info.weight_cache_mode)};
  return std::nullopt;
}

constexpr std::string_view kPatience = "SGLANG_WAIT_WEIGHTS_READY_TIMEOUT";  // seconds; 120 where it is not set
constexpr double kUsualPatienceSeconds = 120;

/// As far as its environment may be read from here: it is told nowhere else.
bool has_more_patience(const std::optional<ProcessId>& listener) {
  const auto text = listener && listener->pid != 0 ? variable_of(*listener, kPatience) : std::nullopt;
  return text && std::strtod(text->c_str(), nullptr) > kUsualPatienceSeconds;
}

std::vector<std::string> warnings_about(const wire::ServerInfo& info, const std::optional<ProcessId>& listener) {
  std::vector<std::string> warnings;
  if (info.waits_for_weights && has_more_patience(listener)) return warnings;
  if (info.waits_for_weights)
    warnings.emplace_back(
        "it waits for its first weights before it is ready, but gives up after 120 s and then serves what it has, unless "
        "SGLANG_WAIT_WEIGHTS_READY_TIMEOUT (seconds, in its environment) is raised");
  else if (info.load_format == "dummy")
    warnings.emplace_back(
        "it was started with --load-format dummy and without --checkpoint-engine-wait-weights-before-ready: until its "
        "first update it serves random weights");
  if (info.memory_saver)
    warnings.emplace_back(
        "it was started with --enable-memory-saver, and SGLang does not tell whether its memory is released: an update of "
        "released memory ends it, so whoever releases memory must resume it before an update");
  if (info.nodes > 1)
    warnings.push_back(fmt::format("it runs on {} nodes: an update needs the endpoints of all of them in one request",
                                   info.nodes));
  return warnings;
}

class SglangEngine final : public Engine {
 public:
  explicit SglangEngine(Address address) : caller_(std::move(address)) {}

  Result<Observation> observe(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    const auto ping = CKPTD_TRY(caller_.get(wire::kPingTarget, Guard::api, deadline));
    Observation seen;
    // 503 since 0.5.23: while it starts, and that includes waiting for its first weights; older servers answer 200.
    if (ping.status == 503) {
      seen.state = Observation::State::starting;
    } else {
      CKPTD_TRY(about(wire::read_done("GET /ping", ping.status, ping.body, ping.sent), deadline));
      seen.state = CKPTD_TRY(serving_or_paused(deadline));
    }
    seen.weight_version = shown(CKPTD_TRY(weight_version(deadline)));
    seen.listener = caller_.listener();
    return seen;
  }

  Result<Description> describe(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    auto answer = CKPTD_TRY(caller_.get(wire::kServerTarget, Guard::api, deadline, kLargeAnswerBytes));
    if (answer.status == 404)
      answer = CKPTD_TRY(caller_.get(wire::kOldServerTarget, Guard::api, deadline, kLargeAnswerBytes));
    const auto info =
        CKPTD_TRY(about(wire::read_server_info(answer.status, answer.body, answer.sent), deadline));
    const auto routes = CKPTD_TRY(caller_.get(wire::kRoutesTarget, Guard::api, deadline, kLargeAnswerBytes));
    Description description;
    description.version = info.version;
    description.model = info.model;
    description.tensor_parallel = info.tensor_parallel;
    description.pipeline_parallel = info.pipeline_parallel;
    description.data_parallel = info.data_parallel;
    description.nodes = info.nodes;
    description.ranks = info.tensor_parallel * info.pipeline_parallel;  // data parallelism by attention is within these
    description.data_parallel_attention = info.data_parallel_attention;
    description.draft_models = info.draft_models;
    description.speculative = info.speculative;
    description.quantization = info.quantization;
    description.can_sleep = info.memory_saver;
    description.can_verify = routes.status == 200 && wire::offers_route(routes.body, wire::kChecksumsTarget);
    description.warnings = warnings_about(info, caller_.listener());
    description.unsuitable = unsuitable(info);
    return description;
  }

  std::optional<ProcessId> listener() const override { return caller_.listener(); }

  std::map<std::string, std::string> handles(const std::map<std::string, std::string>& endpoints) const override {
    return wire::handles_as_asked_for(endpoints);
  }

  Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override {
    const auto deadline = Deadline::in(timeout);
    auto body = wire::update_request_body(call.endpoints, call.weight_version, call.flush_cache);
    const auto answer =
        CKPTD_TRY(caller_.post(wire::kUpdateTarget, std::move(body), Guard::admin, deadline, std::move(stop)));
    return about(wire::read_update_answer(answer.status, answer.body, answer.sent), deadline);
  }

  /// The update itself has flushed the cache and set the label; whether the label is there is read back.
  Result<> conclude(const UpdateCall& call, std::chrono::milliseconds timeout) override {
    if (call.weight_version.empty()) return {};
    const auto told = CKPTD_TRY(weight_version(Deadline::in(timeout)));
    if (told.empty() || told == call.weight_version) return {};
    return fail(ErrorKind::peer_failed,
                "{} answered that the update succeeded, but tells the weight version {} and not {}: was it restarted, or "
                "updated by somebody else?",
                caller_.who(), shown(told), call.weight_version);
  }

  Result<> pause(Pause mode, std::chrono::milliseconds timeout, std::stop_token stop) override {
    CKPTD_TRY(check_pause("sglang", mode, false));
    if (mode == Pause::none) return {};
    return command(wire::kPauseTarget, wire::pause_body(name_of(mode)), timeout, std::move(stop));
  }

  Result<> resume(std::chrono::milliseconds timeout) override {
    return command(wire::kContinueTarget, wire::continue_body(), timeout);
  }

  Result<std::vector<RankChecksums>> checksums(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    const auto answer = CKPTD_TRY(caller_.post(wire::kChecksumsTarget, wire::checksums_body(), Guard::admin, deadline,
                                               {}, kLargeAnswerBytes));
    auto ranks = CKPTD_TRY(about(wire::read_checksums(answer.status, answer.body, answer.sent), deadline));
    std::vector<RankChecksums> sums;
    for (auto& rank : ranks) sums.push_back({std::move(rank.rank), std::move(rank.by_tensor)});
    return sums;
  }

  /// Of tensor-parallel ranks the first one answers for all.
  Result<std::vector<RankValues>> values(const std::string& tensor, std::size_t count,
                                         std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    const auto answer = CKPTD_TRY(caller_.post(wire::kValuesTarget, wire::values_body(tensor, count), Guard::admin,
                                               deadline, {}, kLargeAnswerBytes));
    auto lists = CKPTD_TRY(about(wire::read_values(answer.status, answer.body, answer.sent), deadline));
    std::vector<RankValues> told;
    for (auto& values : lists)
      told.push_back({lists.size() == 1 ? "tp0" : fmt::format("tp0 dp{}", told.size()), std::move(values)});
    return told;
  }

 private:
  /// GET /ready answers 503 while a healthy server is paused; older servers do not have it.
  Result<Observation::State> serving_or_paused(Deadline deadline) const {
    const auto ready = CKPTD_TRY(caller_.get(wire::kReadyTarget, Guard::open, deadline));
    return ready.status == 503 ? Observation::State::paused : Observation::State::serving;
  }

  Result<std::string> weight_version(Deadline deadline) const {
    auto answer = CKPTD_TRY(caller_.get(wire::kModelTarget, Guard::api, deadline));
    if (answer.status == 404) answer = CKPTD_TRY(caller_.get(wire::kOldModelTarget, Guard::api, deadline));
    return about(wire::read_weight_version(answer.status, answer.body, answer.sent), deadline);
  }

  Result<> command(std::string_view target, std::string body, std::chrono::milliseconds timeout,
                   std::stop_token stop = {}) const {
    const auto deadline = Deadline::in(timeout);
    const auto answer = CKPTD_TRY(caller_.post(target, std::move(body), Guard::admin, deadline, std::move(stop)));
    const auto request = fmt::format("POST {}", target);
    return about(wire::read_done(request, answer.status, answer.body, answer.sent), deadline);
  }

  /// What was read of an answer, its error with whose it is. A server with --admin-api-key rejects the API key for
  /// whatever changes it and answers as if that were wrong: whether it is, an ordinary route tells.
  template <class T>
  Result<T> about(Result<T> read, Deadline deadline) const {
    if (read) return read;
    auto error = read.error().within(caller_.who());
    if (error.kind == ErrorKind::denied && is_right_elsewhere(error, deadline)) {
      error.sentence += "; the key is accepted where the API key suffices, so the server was started with "
                        "--admin-api-key: name the file of that one as admin_key_file";
      for (auto& [name, value] : error.facts)
        if (name == "key") value = "admin_required";
    }
    return std::unexpected(std::move(error));
  }

  bool is_right_elsewhere(const Error& error, Deadline deadline) const {
    const bool api_key_rejected = error.sentence.find("rejects the API key") != error.sentence.npos;
    if (!api_key_rejected) return false;
    const auto ping = caller_.get(wire::kPingTarget, Guard::api, deadline);
    return ping && ping->status != 401 && ping->status != 403;
  }

  const Caller caller_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(Address address) { return std::make_unique<SglangEngine>(std::move(address)); }

}  // namespace ckptd::fleet::sglang
