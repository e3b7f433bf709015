// Answers from JSON, tolerantly: unknown members are ignored and what an older daemon does not send keeps its default.
// Only the members that say what a thing is, and in which state, must be there.
#include <nlohmann/json.hpp>

#include "proto/control/api.h"
#include "proto/control/json_reader.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

void read_time(ObjectReader& reader, std::string_view name, Time& into) {
  std::optional<std::string> text;
  reader.optional(name, text);
  if (!text) return;
  auto time = parse_time(*text);
  if (time)
    into = *time;
  else
    reader.complain_about(name, "must be a time like 2030-01-31T23:59:59Z");
}

void read_time(ObjectReader& reader, std::string_view name, std::optional<Time>& into) {
  constexpr Time kAbsent = Time::min();
  Time time = kAbsent;
  read_time(reader, name, time);
  if (time != kAbsent) into = time;
}

/// Never throws, whatever bytes the strings inside have.
std::string dumped(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : dumped(value);
}

Error error_from(const json& object) {
  Error error;
  std::string kind;
  ObjectReader reader(object, kReadingAnswer, "error");
  reader.required("kind", kind);
  reader.required("sentence", error.sentence);
  reader.optional("vendor", error.vendor);
  error.kind = error_kind_named(kind);
  if (const auto* facts = reader.take("facts"); facts != nullptr && facts->is_object())
    for (const auto& fact : facts->items()) error.facts.emplace_back(fact.key(), text_of(fact.value()));
  return error;
}

bool is_error_object(const json& value) {
  return value.is_object() && value.contains("kind") && value["kind"].is_string() && value.contains("sentence") &&
         value["sentence"].is_string();
}

/// Any text of a server that is not ours, cut to what a person reads.
std::string quote(const json& value) {
  auto text = text_of(value);
  return text.size() <= 500 ? text : text.substr(0, 500) + "...";
}

Result<TensorInfo> parse_tensor(const json& value) {
  TensorInfo tensor;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("name", tensor.name);
  reader.optional("dtype", tensor.dtype);
  reader.optional("shape", tensor.shape);
  reader.optional("bytes", tensor.bytes);
  reader.optional("digest", tensor.digest);
  CKPTD_TRY(reader.finish());
  return tensor;
}

Result<StageTime> parse_stage(const json& value) {
  StageTime stage;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("name", stage.name);
  reader.required("seconds", stage.seconds);
  reader.optional("bytes", stage.bytes);
  CKPTD_TRY(reader.finish());
  return stage;
}

Result<Quarantine> parse_quarantine(const json& value) {
  Quarantine quarantine;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("bytes", quarantine.bytes);
  reader.optional("engine", quarantine.engine);
  reader.optional("pids", quarantine.pids);
  reader.optional("why", quarantine.why);
  read_time(reader, "since", quarantine.since);
  CKPTD_TRY(reader.finish());
  return quarantine;
}

Result<LostDevice> parse_lost(const json& value) {
  LostDevice lost;
  ObjectReader reader(value, kReadingAnswer, "lost");
  read_time(reader, "since", lost.since);
  reader.optional("why", lost.why);
  reader.optional("vendor", lost.vendor);
  CKPTD_TRY(reader.finish());
  return lost;
}

Result<DeviceStatus> parse_device(const json& value) {
  DeviceStatus device;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("uuid", device.uuid);
  reader.optional("kind", device.kind);
  reader.optional("free_bytes", device.free_bytes);
  reader.optional("arena_bytes", device.arena_bytes);
  reader.optional("kept_arena_bytes", device.kept_arena_bytes);
  reader.optional("quarantined_bytes", device.quarantined_bytes);
  reader.each("quarantine", device.quarantine, parse_quarantine);
  if (const auto* lost = reader.take("lost"); lost != nullptr) device.lost = CKPTD_TRY(parse_lost(*lost));
  CKPTD_TRY(reader.finish());
  return device;
}

PrefaultInfo prefault_from(ObjectReader& status) {
  PrefaultInfo prefault;
  const auto* object = status.take("prefault");
  if (object == nullptr) return prefault;
  ObjectReader reader(*object, kReadingAnswer, "prefault");
  reader.optional("policy", prefault.policy);
  reader.optional("state", prefault.state);
  reader.optional("ready_bytes", prefault.ready_bytes);
  reader.optional("total_bytes", prefault.total_bytes);
  reader.optional("why", prefault.why);
  status.join(reader.finish());
  return prefault;
}

Result<UpdatePreview::PerEngine> parse_per_engine(const json& value) {
  UpdatePreview::PerEngine engine;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("engine", engine.engine);
  reader.optional("fan_out", engine.fan_out);
  reader.optional("devices", engine.devices);
  reader.optional("buckets", engine.buckets);
  reader.optional("bucket_bytes", engine.bucket_bytes);
  reader.optional("arena_bytes", engine.arena_bytes);
  reader.optional("tensor_bytes", engine.tensor_bytes);
  reader.optional("tensors", engine.tensors);
  reader.optional("copy_runs", engine.copy_runs);
  reader.optional("serving", engine.serving);
  reader.optional("warnings", engine.warnings);
  CKPTD_TRY(reader.finish());
  return engine;
}

Result<EngineHandles> parse_handles(const json& value) {
  EngineHandles engine;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("engine", engine.engine);
  if (const auto* handles = reader.take("zmq_handles"); handles != nullptr && handles->is_object()) {
    for (const auto& [device, endpoint] : handles->items()) {
      if (endpoint.is_string())
        engine.zmq_handles[device] = endpoint.get<std::string>();
      else
        reader.complain_about("zmq_handles", "has an endpoint that is no string");
    }
  }
  if (const auto* error = reader.take("error")) engine.error = parse_error({{"error", *error}});
  reader.optional("warnings", engine.warnings);
  CKPTD_TRY(reader.finish());
  return engine;
}

}  // namespace

Error parse_error(const json& value) {
  if (value.is_object() && value.contains("error") && is_error_object(value["error"]))
    return error_from(value["error"]);
  return Error{ErrorKind::internal, fmt::format("the answer is no error of ckptd: {}", quote(value))};
}

Result<Job> parse_job(const json& value) {
  Job job;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("id", job.id);
  reader.required("state", job.state);
  reader.optional("kind", job.kind);
  reader.optional("subject", job.subject);
  reader.optional("stage", job.stage);
  reader.optional("done_bytes", job.done_bytes);
  reader.optional("total_bytes", job.total_bytes);
  reader.optional("cancel_requested", job.cancel_requested);
  read_time(reader, "started", job.started);
  read_time(reader, "ended", job.ended);
  if (const auto* error = reader.take("error")) job.error = parse_error({{"error", *error}});
  if (const auto* result = reader.take("result")) job.result = text_of(*result);
  reader.each("stages", job.stages, parse_stage);
  reader.each("engines", job.engines, parse_handles);
  if (const auto* record = reader.take("record")) {
    auto parsed = parse_job_record(*record);
    if (parsed)
      job.record = *std::move(parsed);
    else
      reader.join(std::unexpected(parsed.error().within("record")));
  }
  CKPTD_TRY(reader.finish());
  return job;
}

Result<Version> parse_version(const json& value) {
  Version version;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("name", version.name);
  reader.required("version", version.version);
  reader.required("state", version.state);
  if (const auto* source = reader.take("source")) {
    ObjectReader nested(*source, kReadingAnswer, "source");
    nested.optional("uri", version.source_uri);
    reader.join(nested.finish());
  }
  reader.optional("job", version.job);
  reader.optional("identity", version.identity);
  reader.optional("schema", version.schema);
  reader.optional("tensor_count", version.tensor_count);
  reader.optional("tensor_bytes", version.tensor_bytes);
  reader.optional("store_bytes", version.store_bytes);
  reader.optional("shared_bytes", version.shared_bytes);
  reader.optional("kept", version.kept);
  reader.optional("leased_by", version.leased_by);
  read_time(reader, "since", version.since);
  read_time(reader, "last_use", version.last_use);
  if (const auto* error = reader.take("error")) version.error = parse_error({{"error", *error}});
  reader.each("tensors", version.tensors, parse_tensor);
  CKPTD_TRY(reader.finish());
  return version;
}

Result<Engine> parse_engine(const json& value) {
  Engine engine;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("name", engine.name);
  reader.optional("kind", engine.kind);
  reader.optional("endpoint", engine.endpoint);
  reader.optional("checkpoint", engine.checkpoint);
  reader.optional("devices", engine.devices);
  reader.optional("target", engine.target);
  reader.optional("serving", engine.serving);
  reader.required("state", engine.state);
  reader.optional("poisoned", engine.poisoned);
  reader.optional("job", engine.job);
  reader.optional("previous", engine.previous);
  reader.optional("ready", engine.ready);
  reader.optional("why", engine.why);
  reader.optional("next", engine.next);
  read_time(reader, "since", engine.since);
  read_time(reader, "retry_at", engine.retry_at);
  reader.optional("last_error", engine.last_error);
  reader.optional("follow", engine.follow);
  reader.optional("drained", engine.drained);
  reader.optional("wake", engine.wake);
  reader.optional("pause", engine.pause);
  reader.optional("flush_cache", engine.flush_cache);
  reader.optional("on_failure", engine.on_failure);
  reader.optional("paused", engine.paused);
  reader.optional("held", engine.held);
  reader.optional("label", engine.label);
  reader.optional("pid", engine.pid);
  reader.optional("server", engine.server);
  reader.optional("warnings", engine.warnings);
  reader.optional("restarts", engine.restarts);
  reader.optional("own_updates", engine.own_updates);
  reader.optional("own_failures", engine.own_failures);
  reader.optional("api_key_file", engine.api_key_file);
  reader.optional("admin_key_file", engine.admin_key_file);
  reader.optional("transfer", engine.transfer);
  reader.optional("target_label", engine.target_label);
  reader.optional("target_forced", engine.target_forced);
  CKPTD_TRY(reader.finish());
  return engine;
}

Result<Reload> parse_reload(const json& value) {
  Reload reload;
  ObjectReader reader(value, kReadingAnswer);
  read_time(reader, "at", reload.at);
  reader.optional("applied", reload.applied);
  reader.optional("needs_restart", reload.needs_restart);
  reader.optional("failed", reload.failed);
  CKPTD_TRY(reader.finish());
  return reload;
}

Result<Status> parse_status(const json& value) {
  Status status;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("daemon_version", status.daemon_version);
  reader.required("ready", status.ready);
  reader.optional("pid", status.pid);
  reader.optional("drained", status.drained);
  read_time(reader, "started", status.started);
  reader.optional("preloads", status.preloads);
  reader.optional("not_ready", status.not_ready);
  reader.optional("warnings", status.warnings);
  status.prefault = prefault_from(reader);
  reader.optional("budget_bytes", status.budget_bytes);
  reader.optional("segment_bytes", status.segment_bytes);
  reader.optional("lent_bytes", status.lent_bytes);
  reader.optional("idle_bytes", status.idle_bytes);
  reader.optional("locked_bytes", status.locked_bytes);
  reader.optional("huge_page_bytes", status.huge_page_bytes);
  reader.optional("lock", status.lock);
  reader.optional("versions_resident", status.versions_resident);
  reader.optional("saved_bytes", status.saved_bytes);
  reader.each("devices", status.devices, parse_device);
  reader.each("engines", status.engines, parse_engine);
  reader.each("peaks", status.peaks, parse_peak);
  reader.optional("running_jobs", status.running_jobs);
  reader.optional("in_custody", status.in_custody);
  if (const auto* reload = reader.take("last_reload"); reload != nullptr)
    status.last_reload = CKPTD_TRY(parse_reload(*reload));
  CKPTD_TRY(reader.finish());
  return status;
}

Result<UpdatePreview> parse_update_preview(const json& value) {
  UpdatePreview preview;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("checkpoint", preview.checkpoint);
  reader.each("engines", preview.engines, parse_per_engine);
  CKPTD_TRY(reader.finish());
  return preview;
}

}  // namespace ckptd::proto::control
