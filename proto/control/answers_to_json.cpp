// Answers as JSON. Members are always there, empty or not; only what api.h has as an optional, and what was not asked
// for, can be absent.
#include <nlohmann/json.hpp>

#include "proto/control/api.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

json error_object(const Error& error) {
  json object{{"kind", name_of(error.kind)}, {"sentence", error.sentence}};
  if (!error.vendor.empty()) object["vendor"] = error.vendor;
  if (!error.facts.empty()) {
    auto& facts = object["facts"] = json::object();
    for (const auto& [name, value] : error.facts) facts[name] = value;
  }
  return object;
}

json tensor_object(const TensorInfo& tensor) {
  return {{"name", tensor.name},
          {"dtype", tensor.dtype},
          {"shape", tensor.shape},
          {"bytes", tensor.bytes},
          {"digest", tensor.digest}};
}

template <class T>
json array_of(const std::vector<T>& values, json (*convert)(const T&)) {
  auto array = json::array();
  for (const auto& value : values) array.push_back(convert(value));
  return array;
}

json quarantine_object(const Quarantine& quarantine) {
  return {{"bytes", quarantine.bytes},
          {"engine", quarantine.engine},
          {"pids", quarantine.pids},
          {"why", quarantine.why},
          {"since", show_time(quarantine.since)}};
}

json device_object(const DeviceStatus& device) {
  json object{{"uuid", device.uuid},
              {"kind", device.kind},
              {"free_bytes", device.free_bytes},
              {"arena_bytes", device.arena_bytes},
              {"kept_arena_bytes", device.kept_arena_bytes},
              {"quarantined_bytes", device.quarantined_bytes},
              {"quarantine", array_of(device.quarantine, quarantine_object)}};
  if (device.lost)
    object["lost"] = {{"since", show_time(device.lost->since)}, {"why", device.lost->why}, {"vendor", device.lost->vendor}};
  return object;
}

json prefault_object(const PrefaultInfo& prefault) {
  return {{"policy", prefault.policy},
          {"state", prefault.state},
          {"ready_bytes", prefault.ready_bytes},
          {"total_bytes", prefault.total_bytes},
          {"why", prefault.why}};
}

json preview_object(const UpdatePreview::PerEngine& engine) {
  return {{"engine", engine.engine},
          {"fan_out", engine.fan_out},
          {"devices", engine.devices},
          {"buckets", engine.buckets},
          {"bucket_bytes", engine.bucket_bytes},
          {"arena_bytes", engine.arena_bytes},
          {"tensor_bytes", engine.tensor_bytes},
          {"tensors", engine.tensors},
          {"copy_runs", engine.copy_runs},
          {"serving", engine.serving},
          {"warnings", engine.warnings}};
}

/// A job's result is JSON as text. What is not becomes a string: an answer must not fail because of it.
json embedded(const std::string& text) {
  auto value = json::parse(text, nullptr, false);
  return value.is_discarded() ? json(text) : value;
}

}  // namespace

json to_json(const Error& error) {
  return {{"error", error_object(error)}};
}

json to_json(const Job& job) {
  json object{{"id", job.id},
              {"kind", job.kind},
              {"subject", job.subject},
              {"state", job.state},
              {"stage", job.stage},
              {"done_bytes", job.done_bytes},
              {"total_bytes", job.total_bytes},
              {"started", show_time(job.started)},
              {"cancel_requested", job.cancel_requested}};
  if (job.error) object["error"] = error_object(*job.error);
  if (!job.result.empty()) object["result"] = embedded(job.result);
  for (const auto& stage : job.stages)
    object["stages"].push_back({{"name", stage.name}, {"seconds", stage.seconds}, {"bytes", stage.bytes}});
  if (job.record) object["record"] = to_json(*job.record);
  if (job.ended) object["ended"] = show_time(*job.ended);
  for (const auto& engine : job.engines) {
    json each{{"engine", engine.engine}, {"zmq_handles", engine.zmq_handles}};
    if (engine.error) each["error"] = error_object(*engine.error);
    if (!engine.warnings.empty()) each["warnings"] = engine.warnings;
    object["engines"].push_back(std::move(each));
  }
  // Of one engine they need not be looked for.
  if (job.engines.size() == 1) object["zmq_handles"] = job.engines.front().zmq_handles;
  return object;
}

json to_json(const Version& version) {
  json object{{"name", version.name},
              {"version", version.version},
              {"state", version.state},
              {"source", {{"uri", version.source_uri}}},
              {"job", version.job},
              {"identity", version.identity},
              {"schema", version.schema},
              {"tensor_count", version.tensor_count},
              {"tensor_bytes", version.tensor_bytes},
              {"store_bytes", version.store_bytes},
              {"shared_bytes", version.shared_bytes},
              {"kept", version.kept},
              {"leased_by", version.leased_by},
              {"since", show_time(version.since)}};
  if (version.last_use) object["last_use"] = show_time(*version.last_use);
  if (version.error) object["error"] = error_object(*version.error);
  if (!version.tensors.empty()) object["tensors"] = array_of(version.tensors, tensor_object);
  return object;
}

json to_json(const Engine& engine) {
  json object{{"name", engine.name},         {"kind", engine.kind},
              {"endpoint", engine.endpoint}, {"checkpoint", engine.checkpoint},
              {"devices", engine.devices},   {"target", engine.target},
              {"serving", engine.serving},   {"previous", engine.previous},
              {"state", engine.state},       {"ready", engine.ready},
              {"why", engine.why},           {"next", engine.next},
              {"poisoned", engine.poisoned}, {"job", engine.job},
              {"follow", engine.follow},     {"wake", engine.wake},
              {"drained", engine.drained},   {"label", engine.label},
              {"pid", engine.pid},           {"server", engine.server},
              {"warnings", engine.warnings}, {"last_error", engine.last_error},
              {"restarts", engine.restarts}, {"own_updates", engine.own_updates},
              {"own_failures", engine.own_failures},
              {"pause", engine.pause},       {"flush_cache", engine.flush_cache},
              {"on_failure", engine.on_failure},
              {"paused", engine.paused},     {"held", engine.held},
              {"api_key_file", engine.api_key_file},
              {"admin_key_file", engine.admin_key_file},
              {"transfer", engine.transfer},
              {"target_label", engine.target_label},
              {"target_forced", engine.target_forced}};
  if (engine.since) object["since"] = show_time(*engine.since);
  if (engine.retry_at) object["retry_at"] = show_time(*engine.retry_at);
  return object;
}

json to_json(const Reload& reload) {
  return {{"at", show_time(reload.at)},
          {"applied", reload.applied},
          {"needs_restart", reload.needs_restart},
          {"failed", reload.failed}};
}

json to_json(const Trimmed& trimmed) {
  return {{"bytes", trimmed.bytes}, {"communicators", trimmed.communicators}};
}

json to_json(const Status& status) {
  json object{{"daemon_version", status.daemon_version},
              {"pid", status.pid},
              {"started", show_time(status.started)},
              {"ready", status.ready},
              {"drained", status.drained},
              {"preloads", status.preloads},
              {"not_ready", status.not_ready},
              {"warnings", status.warnings},
              {"prefault", prefault_object(status.prefault)},
              {"budget_bytes", status.budget_bytes},
              {"segment_bytes", status.segment_bytes},
              {"lent_bytes", status.lent_bytes},
              {"idle_bytes", status.idle_bytes},
              {"locked_bytes", status.locked_bytes},
              {"huge_page_bytes", status.huge_page_bytes},
              {"lock", status.lock},
              {"versions_resident", status.versions_resident},
              {"saved_bytes", status.saved_bytes},
              {"devices", array_of(status.devices, device_object)},
              {"engines", array_of<Engine>(status.engines, to_json)},
              {"running_jobs", status.running_jobs},
              {"peaks", array_of<Peak>(status.peaks, to_json)},
              {"in_custody", status.in_custody}};
  if (status.last_reload) object["last_reload"] = to_json(*status.last_reload);
  return object;
}

json to_json(const UpdatePreview& preview) {
  return {{"checkpoint", preview.checkpoint}, {"engines", array_of(preview.engines, preview_object)}};
}

}  // namespace ckptd::proto::control
