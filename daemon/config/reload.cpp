#include "daemon/config/draft.h"
#include "daemon/config/keys.h"

namespace ckptd::config {

Result<Reloaded> reload(const Config& running, const Config& wanted) {
  Reloaded reloaded{.config = running, .applied = {}, .needs_restart = {}};
  for (const auto& key : config_keys()) {
    if (key.show(running) == key.show(wanted)) continue;
    if (key.change == Change::restart) {
      reloaded.needs_restart.push_back(key.name);
      continue;
    }
    key.copy(wanted, reloaded.config);
    reloaded.applied.push_back(key.name);
  }
  if (running.preloads != wanted.preloads) reloaded.applied.push_back("preload");
  if (running.engines != wanted.engines) reloaded.applied.push_back("engine");
  reloaded.config.preloads = wanted.preloads;
  reloaded.config.engines = wanted.engines;
  // Both are right each on its own; what is in effect afterwards is a mixture of the two.
  if (auto checked = check({.config = reloaded.config, .file = {}, .origins = {}}); !checked)
    return std::unexpected(checked.error().within("together with values that only a restart changes"));
  return reloaded;
}

}  // namespace ckptd::config
