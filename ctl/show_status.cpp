#include <fmt/ranges.h>

#include "common/units.h"
#include "ctl/engine_text.h"
#include "ctl/summaries.h"
#include "ctl/table.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

/// Lines under one another; `none` for none.
std::string lines(const std::vector<std::string>& each, std::string_view none) {
  return each.empty() ? std::string(none) : fmt::format("{}", fmt::join(each, "\n"));
}

std::string engine_in_status(const Engine& engine) {
  auto line = fmt::format("{}  {}", engine.name, state_of(engine));
  line += engine.serving.empty() ? ", serves nothing that we know of" : ", serves " + engine.serving;
  if (!engine.target.empty() && engine.target != engine.serving) line += ", should serve " + engine.target;
  if (is_poisoned(engine)) line += fmt::format("\n  {}\n  {}", engine.poisoned, cure_for(engine));
  if (!engine.why.empty()) line += "\n  " + engine.why;
  for (const auto& warning : engine.warnings) line += "\n  warning: " + warning;
  return line;
}

std::string show_store(const Status& status) {
  auto taken = status.lent_bytes + status.idle_bytes;
  auto unclaimed = status.budget_bytes > taken ? status.budget_bytes - taken : 0;
  auto out = fmt::format("{} budget: {} lent to {} {}, {} idle, {} not claimed yet\n", show_bytes(status.budget_bytes),
                         show_bytes(status.lent_bytes), status.versions_resident,
                         status.versions_resident == 1 ? "version" : "versions", show_bytes(status.idle_bytes),
                         show_bytes(unclaimed));
  out += fmt::format("{} locked (lock: {})", show_bytes(status.locked_bytes), status.lock);
  if (status.locked_bytes < taken && status.lock != "off")
    out += fmt::format(", {} NOT locked", show_bytes(taken - status.locked_bytes));
  if (status.huge_page_bytes > 0) out += fmt::format(", {} in huge pages", show_bytes(status.huge_page_bytes));
  out += fmt::format(", segments of {}", show_bytes(status.segment_bytes));
  if (status.saved_bytes > 0)
    out += fmt::format("\n{} saved, since versions share what they have in common", show_bytes(status.saved_bytes));
  if (status.prefault.state == "running")
    out += fmt::format("\nprefaulting: {} of {} ready", show_bytes(status.prefault.ready_bytes),
                       show_bytes(status.prefault.total_bytes));
  return out;
}

std::string show_device(const DeviceStatus& device) {
  auto line = device.lost ? fmt::format("{}  {}, LOST", device.uuid, device.kind)
                          : fmt::format("{}  {}, {} free", device.uuid, device.kind, show_bytes(device.free_bytes));
  if (device.arena_bytes > 0) line += fmt::format(", {} in updates", show_bytes(device.arena_bytes));
  if (device.kept_arena_bytes > 0)
    line += fmt::format(", {} kept for the next update (ckptctl trim)", show_bytes(device.kept_arena_bytes));
  if (device.quarantined_bytes > 0)
    line += fmt::format(", {} in QUARANTINE", show_bytes(device.quarantined_bytes));
  return line;
}

/// Below the device's line.
std::string show_quarantine(const DeviceStatus& device, const View& view) {
  std::string out;
  for (const auto& each : device.quarantine) {
    auto ago = std::chrono::duration<double>(view.now - each.since).count();
    out += fmt::format("\n  {} for {}: pid {} of engine {} may still map it. {}; it ends with that process",
                       show_bytes(each.bytes), show_seconds(std::max(0.0, ago)), fmt::join(each.pids, ", "),
                       printable(each.engine), printable(each.why));
  }
  return out;
}

/// Below the device's line.
std::string show_lost(const DeviceStatus& device, const View& view) {
  if (!device.lost) return {};
  auto ago = std::chrono::duration<double>(view.now - device.lost->since).count();
  auto out = fmt::format("\n  lost {} ago: {}", show_seconds(std::max(0.0, ago)), printable(device.lost->why));
  if (!device.lost->vendor.empty()) out += fmt::format(" ({})", printable(device.lost->vendor));
  return out;
}

std::string show_daemon(const Status& status, const View& view) {
  auto up = std::chrono::duration<double>(view.now - status.started).count();
  auto out = fmt::format("ckptd {}, pid {}, up {}, {}", status.daemon_version, status.pid,
                         show_seconds(std::max(0.0, up)), status.ready ? "ready" : "NOT READY");
  for (const auto& reason : status.not_ready) out += "\n  " + reason;
  return out;
}

std::string show_running(const Status& status) {
  std::vector<std::string> each;
  for (const auto& job : status.running_jobs) each.push_back(fmt::format("{}  (ckptctl job watch {})", job, job));
  return lines(each, "none running");
}

std::string show_custody(const Status& status) {
  if (status.in_custody.empty()) return {};
  return fmt::format("failed sessions whose rank is not gone yet:\n  {}", fmt::join(status.in_custody, "\n  "));
}

std::string show_last_reload(const Status& status, const View& view) {
  if (!status.last_reload) return {};
  const auto& reload = *status.last_reload;
  auto ago = std::chrono::duration<double>(view.now - reload.at).count();
  return fmt::format("reload {} ago: {}", show_seconds(std::max(0.0, ago)), show_reload(reload));
}

std::string peak_in_status(const Status& status, std::string_view stage, const std::string& device, const View& view) {
  for (const auto& peak : status.peaks)
    if (peak.stage == stage && peak.device == device) return ", " + show_peak(peak, view);
  return {};
}

std::string show_hash_peak(const Status& status, const View& view) {
  if (status.peaks.empty()) return "none measured (ckptctl probe)";
  for (const auto& peak : status.peaks)
    if (peak.stage == "hash") return show_peak(peak, view);
  return {};
}

}  // namespace

std::string show_reload(const Reload& reload) {
  if (!reload.failed.empty()) return "REFUSED, everything stays as it was: " + printable(reload.failed);
  if (reload.applied.empty() && reload.needs_restart.empty()) return "nothing has changed";
  std::string text = reload.applied.empty() ? "nothing is applied"
                                            : printable(fmt::format("applied {}", fmt::join(reload.applied, ", ")));
  if (!reload.needs_restart.empty())
    text += printable(fmt::format("; {} changed too and will count after a restart (systemctl restart ckptd)",
                                  fmt::join(reload.needs_restart, ", ")));
  return text;
}

std::string show_status(const Status& status, const View& view) {
  std::vector<std::string> devices, engines;
  for (const auto& device : status.devices)
    devices.push_back(show_device(device) + peak_in_status(status, "copy", device.uuid, view) +
                      peak_in_status(status, "spread", device.uuid, view) +
                      show_lost(device, view) + show_quarantine(device, view));
  for (const auto& engine : status.engines) engines.push_back(engine_in_status(engine));
  return render_fields({
      {"daemon", show_daemon(status, view)},
      {"configuration", show_last_reload(status, view)},
      {"store", show_store(status)},
      {"devices", lines(devices, "none")},
      {"peaks", show_hash_peak(status, view)},
      {"engines", lines(engines, "none known (ckptctl engine add)")},
      {"jobs", show_running(status)},
      {"warnings", lines(status.warnings, "")},
      {"custody", show_custody(status)},
  });
}

}  // namespace ckptd::ctl
