#include "daemon/operations/policies.h"

namespace ckptd::operations {

Result<fleet::Policy> policy_of(const journal::EngineRecord& engine, const proto::control::UpdateRequest& request) {
  fleet::Policy policy;
  policy.flush_cache = request.flush_cache.value_or(engine.flush_cache);
  const auto& pause = request.pause ? *request.pause : engine.pause;
  if (pause != "auto") {
    policy.pause = fleet::pause_named(pause);
    if (!policy.pause)
      return fail(ErrorKind::invalid_argument,
                  "'{}' is no way to pause an engine: write none, abort, retract, in_place, keep, wait or auto", pause);
    CKPTD_TRY(fleet::check_pause(engine.kind, *policy.pause, policy.flush_cache));
  }
  const auto& on_failure = request.on_failure ? *request.on_failure : engine.on_failure;
  const auto named = fleet::on_failure_named(on_failure);
  if (!named)
    return fail(ErrorKind::invalid_argument,
                "'{}' is nothing to do with an engine whose update failed: write repush or hold", on_failure);
  policy.on_failure = *named;
  return policy;
}

}  // namespace ckptd::operations
