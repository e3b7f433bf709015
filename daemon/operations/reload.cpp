#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/operations/service.h"

namespace ckptd::operations {
namespace {

void log(const api::Reload& reload) {
  if (!reload.failed.empty())
    return spdlog::error("reload: the configuration stays as it was: {}", reload.failed);
  if (reload.applied.empty() && reload.needs_restart.empty()) return spdlog::info("reload: nothing has changed");
  if (!reload.applied.empty()) spdlog::info("reload: applied {}", fmt::join(reload.applied, ", "));
  if (!reload.needs_restart.empty())
    spdlog::warn("reload: {} changed too and will count after a restart", fmt::join(reload.needs_restart, ", "));
}

}  // namespace

Result<api::Reload> Service::reload() {
  std::lock_guard reloading(reloading_);
  auto outcome = apply_reread();
  api::Reload told = outcome ? *outcome : api::Reload{.failed = outcome.error().sentence};
  told.at = std::chrono::system_clock::now();
  log(told);
  {
    std::lock_guard lock(mutex_);
    last_reload_ = told;
  }
  if (!outcome) return std::unexpected(outcome.error().within("the configuration stays as it was"));
  return told;
}

/// Whatever can refuse comes before what changes something. One thing may still come in between: an update of an engine
/// that begins after it was checked. Then the engines before it in the file are registered anew already, which the next
/// reload repeats.
Result<api::Reload> Service::apply_reread() {
  if (!parts_.reread) return fail(ErrorKind::unsupported, "there is no configuration to read again");
  auto reread = CKPTD_TRY(parts_.reread());
  auto refused = [](const api::EngineRequest& engine, const Error& error) {
    return std::unexpected(error.within("engine " + engine.name + " of the configuration"));
  };
  for (const auto& preload : reread.options.preloads) CKPTD_TRY(weights::CheckpointId::parse(preload.checkpoint));
  for (const auto& engine : reread.engines)
    if (auto checked = check_engine(engine); !checked) return refused(engine, checked.error());
  for (const auto& engine : reread.engines)
    if (auto put = put_engine(engine); !put) return refused(engine, put.error());

  const auto before = options();
  const auto now = std::make_shared<const Options>(std::move(reread.options));
  {
    std::lock_guard lock(mutex_);
    options_ = now;
  }
  reread.adopt();
  for (const auto& preload : now->preloads)
    if (std::ranges::find(before->preloads, preload) == before->preloads.end()) start_preload(preload);
  return api::Reload{.applied = reread.applied, .needs_restart = reread.needs_restart};
}

}  // namespace ckptd::operations
