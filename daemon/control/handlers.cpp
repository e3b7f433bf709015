#include "daemon/control/handlers.h"

#include "daemon/control/parameters.h"
#include "proto/control/api.h"

namespace ckptd::control::handlers {
namespace {

namespace api = proto::control;
using nlohmann::json;

const std::string& part(const Call& call, std::string_view name) {
  return call.path.find(name)->second;
}

Response ok(json body) {
  return {.status = 200, .json = std::move(body)};
}

template <class T>
json array_of(const std::vector<T>& values) {
  auto array = json::array();
  for (const auto& value : values) array.push_back(api::to_json(value));
  return array;
}

bool has_ended(const api::Job& job) {
  return job.state != "running";
}

/// 202 while there is something to wait for.
Response accepted(const api::Job& job) {
  return {.status = has_ended(job) ? 200u : 202u, .json = api::to_json(job)};
}

}  // namespace

Result<Response> healthz(Operations&, const Call&) {
  return ok({{"status", "ok"}});
}

Result<Response> readyz(Operations& operations, const Call&) {
  auto status = operations.status();
  if (status.ready) return ok({{"ready", true}});
  return Response{.status = 503, .json = {{"ready", false}, {"not_ready", status.not_ready}}};
}

Result<Response> status(Operations& operations, const Call&) {
  return ok(api::to_json(operations.status()));
}

Result<Response> reload(Operations& operations, const Call&) {
  return ok(api::to_json(CKPTD_TRY(operations.reload())));
}

Result<Response> list_checkpoints(Operations& operations, const Call&) {
  return ok({{"versions", array_of(operations.versions())}});
}

Result<Response> list_versions(Operations& operations, const Call& call) {
  auto versions = operations.versions();
  std::erase_if(versions, [&](const api::Version& version) { return version.name != part(call, "name"); });
  if (versions.empty())
    return fail(ErrorKind::not_found, "no version of checkpoint '{}' is known; `ckptctl list` shows what is",
                part(call, "name"));
  return ok({{"versions", array_of(versions)}});
}

Result<Response> put_version(Operations& operations, const Call& call) {
  auto key = CKPTD_TRY(idempotency_key(call.request.headers));
  auto request = CKPTD_TRY(api::parse_load_request(call.request.body));
  request.name = part(call, "name");
  request.version = part(call, "version");
  request.idempotency_key = std::move(key);
  return accepted(CKPTD_TRY(operations.load(request)));
}

Result<Response> get_version(Operations& operations, const Call& call) {
  auto tensors = CKPTD_TRY(flag(call.query, "tensors"));
  return ok(api::to_json(CKPTD_TRY(operations.version(part(call, "name"), part(call, "version"), tensors))));
}

Result<Response> patch_version(Operations& operations, const Call& call) {
  auto kept = CKPTD_TRY(api::parse_keep_request(call.request.body));
  return ok(api::to_json(CKPTD_TRY(operations.set_kept(part(call, "name"), part(call, "version"), kept))));
}

Result<Response> delete_version(Operations& operations, const Call& call) {
  auto forget = CKPTD_TRY(flag(call.query, "forget"));
  CKPTD_TRY(operations.evict(part(call, "name"), part(call, "version"), forget));
  return ok(json::object());
}

Result<Response> trim_store(Operations& operations, const Call&) {
  return ok(api::to_json(operations.trim()));
}

Result<Response> post_update(Operations& operations, const Call& call) {
  auto key = CKPTD_TRY(idempotency_key(call.request.headers));
  auto request = CKPTD_TRY(api::parse_update_request(call.request.body));
  request.idempotency_key = std::move(key);
  if (request.dry_run) return ok(api::to_json(CKPTD_TRY(operations.preview_update(request))));
  return accepted(CKPTD_TRY(operations.update(request)));
}

Result<Response> list_jobs(Operations& operations, const Call&) {
  return ok({{"jobs", array_of(operations.jobs())}});
}

Result<Response> get_job(Operations& operations, const Call& call) {
  auto wait = CKPTD_TRY(wait_of(call.query));
  auto job = CKPTD_TRY(operations.job(part(call, "id")));
  auto response = ok(api::to_json(job));
  if (!has_ended(job)) response.may_wait = wait;
  return response;
}

Result<Response> delete_job(Operations& operations, const Call& call) {
  auto force = CKPTD_TRY(flag(call.query, "force"));
  auto job = CKPTD_TRY(operations.cancel_job(part(call, "id"), force));
  return Response{.status = 202, .json = api::to_json(job)};
}

Result<Response> get_trace(Operations& operations, const Call& call) {
  return ok(api::to_json(CKPTD_TRY(operations.trace(part(call, "id")))));
}

Result<Response> post_probe(Operations& operations, const Call&) {
  return accepted(CKPTD_TRY(operations.probe()));
}

Result<Response> verify_engine(Operations& operations, const Call& call) {
  return accepted(CKPTD_TRY(operations.verify(part(call, "name"))));
}

Result<Response> watch_job(Operations& operations, const Call& call) {
  auto job = CKPTD_TRY(operations.job(part(call, "id")));
  return Response{.events = EventsWanted{.job = std::move(job)}};  // its state says it all: no place to go on from
}

Result<Response> watch_everything(Operations&, const Call& call) {
  auto last = CKPTD_TRY(last_event_id(call.request.headers));
  return Response{.events = EventsWanted{.last_event_id = std::move(last)}};
}

Result<Response> list_engines(Operations& operations, const Call&) {
  return ok({{"engines", array_of(operations.engines())}});
}

Result<Response> put_engine(Operations& operations, const Call& call) {
  auto request = CKPTD_TRY(api::parse_engine_request(call.request.body));
  request.name = part(call, "name");
  return ok(api::to_json(CKPTD_TRY(operations.put_engine(request))));
}

Result<Response> get_engine(Operations& operations, const Call& call) {
  return ok(api::to_json(CKPTD_TRY(operations.engine(part(call, "name")))));
}

Result<Response> delete_engine(Operations& operations, const Call& call) {
  CKPTD_TRY(operations.remove_engine(part(call, "name")));
  return ok(json::object());
}

Result<Response> patch_engine(Operations& operations, const Call& call) {
  auto change = CKPTD_TRY(api::parse_engine_change(call.request.body));
  return ok(api::to_json(CKPTD_TRY(operations.change_engine(part(call, "name"), change))));
}

/// For routers and probes: the status code alone says it, the body says why.
Result<Response> engine_ready(Operations& operations, const Call& call) {
  const auto engine = CKPTD_TRY(operations.engine(part(call, "name")));
  const auto wanted = call.query.find("serving");
  const bool is_wanted = wanted == call.query.end() || wanted->second == engine.serving;
  const bool ready = engine.ready && is_wanted;
  auto why = engine.why;
  if (!ready && !engine.poisoned.empty()) why = engine.poisoned + (why.empty() ? "" : "; " + why);
  if (engine.ready && !is_wanted) why = "it serves another version than " + wanted->second;
  return Response{.status = ready ? 200u : 503u,
                  .json = {{"ready", ready},
                           {"engine", engine.name},
                           {"state", engine.state},
                           {"serving", engine.serving},
                           {"target", engine.target},
                           {"why", why}}};
}

Result<Response> drain_engine(Operations& operations, const Call& call) {
  return ok(api::to_json(CKPTD_TRY(operations.set_drained(part(call, "name"), true))));
}

Result<Response> undrain_engine(Operations& operations, const Call& call) {
  return ok(api::to_json(CKPTD_TRY(operations.set_drained(part(call, "name"), false))));
}

Result<Response> drain_node(Operations& operations, const Call&) {
  return ok(api::to_json(CKPTD_TRY(operations.set_node_drained(true))));
}

Result<Response> undrain_node(Operations& operations, const Call&) {
  return ok(api::to_json(CKPTD_TRY(operations.set_node_drained(false))));
}

Result<Response> post_rollback(Operations& operations, const Call& call) {
  auto key = CKPTD_TRY(idempotency_key(call.request.headers));
  auto request = CKPTD_TRY(api::parse_rollback_request(call.request.body));
  request.idempotency_key = std::move(key);
  return accepted(CKPTD_TRY(operations.roll_back(request)));
}

}  // namespace ckptd::control::handlers
