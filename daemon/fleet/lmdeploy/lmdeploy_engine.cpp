#include "daemon/fleet/lmdeploy/lmdeploy_engine.h"

#include <algorithm>

#include "common/utf8.h"
#include "daemon/fleet/caller.h"
#include "proto/lmdeploy/update_weights.h"

namespace ckptd::fleet::lmdeploy {
namespace {

namespace wire = proto::lmdeploy;

class LmdeployEngine final : public Engine {
 public:
  explicit LmdeployEngine(Address address) : caller_(std::move(address)) {}

  Result<Observation> observe(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    const auto answer = CKPTD_TRY(caller_.get(wire::kHealthTarget, Guard::open, deadline));
    Observation seen;
    switch (CKPTD_TRY(caller_.about(wire::read_health(answer.status, answer.body)))) {
      case wire::Health::starting: seen.state = Observation::State::starting; break;
      case wire::Health::healthy: seen.state = Observation::State::serving; break;
      case wire::Health::sleeping: seen.state = Observation::State::asleep; break;
      case wire::Health::unknown: seen.state = CKPTD_TRY(sleeping_or_serving(deadline)); break;
    }
    seen.listener = caller_.listener();
    return seen;
  }

  Result<Description> describe(std::chrono::milliseconds timeout) override {
    const auto told = CKPTD_TRY(readiness(Deadline::in(timeout)));
    Description description;
    const auto ranks = static_cast<unsigned>(told.device_uuids.size());
    description.tensor_parallel = told.tensor_parallel != 0 ? told.tensor_parallel : std::max(ranks, 1U);
    description.data_parallel = told.data_parallel;
    description.ranks = ranks;  // it tells their devices too, but how it spells these was not seen of a live server
    description.can_sleep = true;
    if (told.backend != "pytorch" || told.device != "cuda")
      description.unsuitable = Error{
          ErrorKind::unsupported,
          fmt::format("its backend is {} on {}, and LMDeploy takes weights only in its PyTorch engine on CUDA: start it "
                      "with --backend pytorch",
                      told.backend.empty() ? "not told" : shown(told.backend),
                      told.device.empty() ? "a device that it does not tell" : shown(told.device))};
    else if (told.checkpoint_engine.empty())
      description.unsuitable =
          Error{ErrorKind::unsupported,
                fmt::format("its workers cannot import checkpoint-engine: install it beside LMDeploy ({})",
                            shown(told.message))};
    if (told.data_parallel > 1)
      description.warnings.push_back(
          fmt::format("it is one of {} data-parallel servers: with experts spread over them all must be updated at the "
                      "same time",
                      told.data_parallel));
    return description;
  }

  std::optional<ProcessId> listener() const override { return caller_.listener(); }

  Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override {
    const auto deadline = Deadline::in(timeout);
    // Its workers would open their sessions before they refuse.
    const auto told = CKPTD_TRY(readiness(deadline));
    if (!told.ready)
      return std::unexpected(
          Error{ErrorKind::peer_failed,
                fmt::format("{} is not prepared for an update: {}; LMDeploy takes weights only while it sleeps: update "
                            "it with the pause abort",
                            caller_.who(), shown(told.message))}
              .with_vendor(told.message));
    const auto answer = CKPTD_TRY(caller_.post(wire::kUpdateTarget, wire::update_request_body(call.endpoints),
                                               Guard::admin, deadline, std::move(stop)));
    return caller_.about(wire::read_update_answer(answer.status, answer.body, answer.sent));
  }

  /// There is no cache to flush: it was released before the update and is made anew by resume().
  Result<> conclude(const UpdateCall& call, std::chrono::milliseconds) override {
    if (call.weight_version.empty()) return {};
    return fail(ErrorKind::unsupported, "{}: LMDeploy has no label for its weights", caller_.who());
  }

  Result<> pause(Pause mode, std::chrono::milliseconds timeout, std::stop_token stop) override {
    CKPTD_TRY(check_pause("lmdeploy", mode, false));
    if (mode == Pause::none) return {};
    const auto deadline = Deadline::in(timeout);
    CKPTD_TRY(command("POST /sleep", wire::kSleepTarget, deadline, std::move(stop)));
    return command("POST /wakeup", wire::kWakeWeightsTarget, deadline);
  }

  /// A pause that ended between its two calls, with us or at a deadline, has left the weights asleep as well; waking what
  /// is awake does nothing.
  Result<> resume(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    CKPTD_TRY(command("POST /wakeup", wire::kWakeWeightsTarget, deadline));
    return command("POST /wakeup", wire::kWakeCacheTarget, deadline);
  }

  /// A server that was started with --empty-init sleeps with its weights in place.
  Result<> wake_weights(std::chrono::milliseconds timeout) override {
    const auto deadline = Deadline::in(timeout);
    if (CKPTD_TRY(readiness(deadline)).ready) return {};
    CKPTD_TRY(command("POST /wakeup", wire::kWakeWeightsTarget, deadline));
    const auto told = CKPTD_TRY(readiness(deadline));
    if (told.ready) return {};
    return std::unexpected(Error{ErrorKind::peer_failed, fmt::format("{} has woken its weights and still takes none: {}",
                                                                     caller_.who(), shown(told.message))}
                               .with_vendor(told.message));
  }

  Result<> wake_rest(std::chrono::milliseconds timeout) override {
    return command("POST /wakeup", wire::kWakeCacheTarget, Deadline::in(timeout));
  }

 private:
  Result<wire::Readiness> readiness(Deadline deadline) const {
    const auto answer = CKPTD_TRY(caller_.get(wire::kUpdateTarget, Guard::admin, deadline));
    return caller_.about(wire::read_readiness(answer.status, answer.body, answer.sent));
  }

  Result<Observation::State> sleeping_or_serving(Deadline deadline) const {
    const auto answer = CKPTD_TRY(caller_.get(wire::kSleepingTarget, Guard::api, deadline));
    if (answer.status == 404) return Observation::State::serving;  // a server without sleep
    const bool asleep = CKPTD_TRY(caller_.about(wire::read_sleeping(answer.status, answer.body, answer.sent)));
    return asleep ? Observation::State::asleep : Observation::State::serving;
  }

  Result<> command(std::string_view request, std::string_view target, Deadline deadline,
                   std::stop_token stop = {}) const {
    const auto answer = CKPTD_TRY(caller_.post(target, "{}", Guard::admin, deadline, std::move(stop)));
    return caller_.about(wire::read_done(request, answer.status, answer.body, answer.sent));
  }

  const Caller caller_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(Address address) { return std::make_unique<LmdeployEngine>(std::move(address)); }

}  // namespace ckptd::fleet::lmdeploy
