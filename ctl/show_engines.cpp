#include <fmt/ranges.h>

#include "common/units.h"
#include "ctl/engine_text.h"
#include "ctl/summaries.h"
#include "ctl/table.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

std::string show_devices(const std::vector<std::string>& devices) {
  return devices.empty() ? "all" : fmt::format("{}", fmt::join(devices, ", "));
}

}  // namespace

std::string show_engines(const std::vector<Engine>& engines, const View& view) {
  if (engines.empty())
    return "no engine is known; add one with: ckptctl engine add NAME --kind sglang --endpoint URL --checkpoint NAME\n";
  Table table{{{"ENGINE", true},
               {"KIND"},
               {"STATE"},
               {"SERVING", true},
               {"TARGET", true},
               {"CHECKPOINT", true},
               {"DEVICES", true},
               {"ENDPOINT", true}},
              {}};
  std::string notes;
  for (const auto& engine : engines) {
    table.rows.push_back({engine.name, engine.kind, state_of(engine), engine.serving, engine.target, engine.checkpoint,
                          show_devices(engine.devices), engine.endpoint});
    if (!engine.why.empty()) notes += printable(fmt::format("{}: {}", engine.name, engine.why)) + "\n";
    if (is_poisoned(engine))
      notes += printable(fmt::format("{} is poisoned: {}; {}", engine.name, engine.poisoned, cure_for(engine))) + "\n";
  }
  return render(table, view.width, view.utf8) + (notes.empty() ? "" : "\n" + notes);
}

namespace {

std::string state_and_since(const Engine& engine, const View& view) {
  auto text = state_of(engine);
  if (engine.since)
    text += fmt::format(" for {}", show_seconds(std::max(0.0, std::chrono::duration<double>(view.now - *engine.since).count())));
  if (engine.ready) text += ", ready";
  return text;
}

/// What its server tells of itself.
std::string server_of(const Engine& engine) {
  std::vector<std::string> parts;
  if (!engine.server.empty()) parts.push_back(engine.server);
  if (engine.pid != 0) parts.push_back(fmt::format("pid {}", engine.pid));
  if (!engine.label.empty()) parts.push_back(fmt::format("weight version {}", engine.label));
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// What the daemon does by itself, and did.
std::string by_itself(const Engine& engine) {
  if (engine.next.empty()) return {};  // of a daemon from before the life cycle
  auto text = std::string(engine.follow ? "brought to its target" : "only watched: it is updated by hand");
  if (engine.own_updates + engine.own_failures > 0)
    text += fmt::format(", {} updates so far, {} failed", engine.own_updates + engine.own_failures, engine.own_failures);
  if (engine.restarts > 0) text += fmt::format(", {} restarts seen", engine.restarts);
  return text;
}

/// And how it is given.
std::string target_of(const Engine& engine) {
  auto text = engine.target;
  if (!engine.target_label.empty()) text += fmt::format(", as weight version {}", engine.target_label);
  if (engine.target_forced) text += ", forced";
  return text;
}

std::string policy_of(const Engine& engine) {
  auto text = fmt::format("pause {}, cache {}, on failure {}", engine.pause, engine.flush_cache ? "flushed" : "kept",
                          engine.on_failure);
  if (!engine.paused.empty()) text += fmt::format("\nPAUSED by ckptd ({})", engine.paused);
  if (engine.held) text += "\nHELD as it is, until somebody updates it";
  return text;
}

}  // namespace

std::string show_engine(const Engine& engine, const View& view) {
  return render_fields({
      {"engine", engine.name},
      {"kind", engine.kind},
      {"endpoint", engine.endpoint},
      {"checkpoint", engine.checkpoint},
      {"devices", show_devices(engine.devices)},
      {"state", state_and_since(engine, view)},
      {"why", engine.why},
      {"serving", engine.serving},
      {"target", target_of(engine)},
      {"transfer", engine.transfer == "auto" ? "" : engine.transfer},
      {"previous", engine.previous},
      {"server", server_of(engine)},
      {"by itself", by_itself(engine)},
      {"updates", policy_of(engine)},
      {"last error", engine.last_error},
      {"warnings", fmt::format("{}", fmt::join(engine.warnings, "\n"))},
      {"API key file", engine.api_key_file},
      {"admin key file", engine.admin_key_file},
      {"poisoned", is_poisoned(engine) ? engine.poisoned + "\n" + cure_for(engine) : ""},
  });
}

std::string show_preview(const UpdatePreview& preview, const View& view) {
  Table table{{{"ENGINE", true},
               {"SERVING", true},
               {"DEVICES", true},
               {"FAN-OUT"},
               {"TENSORS", false, true},
               {"SIZE", false, true},
               {"BUCKETS", false, true},
               {"BUCKET", false, true},
               {"ARENA", false, true},
               {"COPY RUNS", false, true}},
              {}};
  std::string warnings;
  for (const auto& engine : preview.engines) {
    table.rows.push_back({engine.engine, engine.serving, fmt::format("{}", fmt::join(engine.devices, ", ")),
                          engine.fan_out, std::to_string(engine.tensors), show_bytes(engine.tensor_bytes),
                          std::to_string(engine.buckets), show_bytes(engine.bucket_bytes),
                          show_bytes(engine.arena_bytes), std::to_string(engine.copy_runs)});
    for (const auto& warning : engine.warnings)
      warnings += printable(fmt::format("warning: {}: {}", engine.engine, warning)) + "\n";
  }
  return fmt::format("an update to {} would do this; nothing was changed\n", printable(preview.checkpoint)) +
         render(table, view.width, view.utf8) + warnings;
}

}  // namespace ckptd::ctl
