#include "daemon/fleet/policy.h"

#include <algorithm>

namespace ckptd::fleet {

std::string_view name_of(OnFailure on_failure) { return on_failure == OnFailure::repush ? "repush" : "hold"; }

std::optional<OnFailure> on_failure_named(std::string_view name) {
  for (const auto each : {OnFailure::repush, OnFailure::hold})
    if (name_of(each) == name) return each;
  return std::nullopt;
}

Pause default_pause(std::string_view kind) {
  // Requests go back to the queue and are answered by the new version.
  if (kind == "sglang") return Pause::retract;
  // vLLM has nothing like it: what runs ends with the old version first.
  if (kind == "vllm") return Pause::wait;
  // LMDeploy takes weights only while it sleeps, and that ends what runs.
  if (kind == "lmdeploy") return Pause::abort;
  return Pause::none;
}

bool pauses_by_sleeping(std::string_view kind) { return kind == "lmdeploy"; }

After after(const Ended& ended, OnFailure on_failure) {
  if (ended.succeeded || !ended.mixture) return After::resume;
  const bool may_repush = on_failure == OnFailure::repush && !ended.cancelled && !ended.repushed;
  return may_repush && ended.last_good_is_resident ? After::repush : After::hold;
}

std::vector<std::size_t> may_begin(std::span<const Rolling> engines, std::uint64_t max_unavailable) {
  using Step = Rolling::Step;
  std::uint64_t out_of_service = 0;
  for (const auto& engine : engines)
    if ((engine.step == Step::running && engine.serves) || (engine.step == Step::failed && !engine.serves))
      ++out_of_service;
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < engines.size(); ++i) {
    if (engines[i].step != Step::pending) continue;
    if (engines[i].serves && max_unavailable) {
      if (out_of_service >= max_unavailable) continue;
      ++out_of_service;
    }
    chosen.push_back(i);
  }
  return chosen;
}

std::uint64_t default_max_unavailable(std::span<const Rolling> engines) {
  return std::ranges::count_if(engines, &Rolling::serves) > 1 ? 1 : 0;
}

}  // namespace ckptd::fleet
