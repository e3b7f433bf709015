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
  std::string cures;
  for (const auto& engine : engines) {
    table.rows.push_back({engine.name, engine.kind, state_of(engine), engine.serving, engine.target, engine.checkpoint,
                          show_devices(engine.devices), engine.endpoint});
    if (is_poisoned(engine))
      cures += printable(fmt::format("{} is poisoned: {}; {}", engine.name, engine.poisoned, cure_for(engine))) + "\n";
  }
  return render(table, view.width, view.utf8) + (cures.empty() ? "" : "\n" + cures);
}

std::string show_engine(const Engine& engine, const View&) {
  return render_fields({
      {"engine", engine.name},
      {"kind", engine.kind},
      {"endpoint", engine.endpoint},
      {"checkpoint", engine.checkpoint},
      {"devices", show_devices(engine.devices)},
      {"state", state_of(engine)},
      {"serving", engine.serving},
      {"target", engine.target},
      {"transfer", engine.transfer == "auto" ? "" : engine.transfer},
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
