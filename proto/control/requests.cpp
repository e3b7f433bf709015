// Requests from JSON, strictly, and to JSON.
#include <nlohmann/json.hpp>

#include "common/units.h"
#include "common/utf8.h"
#include "proto/control/api.h"
#include "proto/control/json_reader.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMostSessions = 64;
constexpr std::size_t kMostLabelBytes = 200;

void refuse_empty(ObjectReader& reader, std::string_view name, const std::string& value) {
  if (value.empty()) reader.complain_about(name, "must not be empty");
}

void refuse_empty(ObjectReader& reader, std::string_view name, const std::vector<std::string>& values) {
  for (const auto& value : values)
    if (value.empty()) reader.complain_about(name, "must not contain an empty string");
}

/// The daemon's working directory is nobody's business. A key that somebody has written here by mistake is no absolute
/// path either, and must not be repeated.
void refuse_relative(ObjectReader& reader, std::string_view name, const std::string& path) {
  if (!path.empty() && !path.starts_with('/'))
    reader.complain_about(name, "must be an absolute path: of a file that holds the key, and not the key itself");
  if (shown(path, path.size()) != path) reader.complain_about(name, "must be a path without control characters");
}

/// "checkpoint":"NAME@VERSION" says both in one; a second word about the version would have to be checked against it.
void split_version_off(ObjectReader& reader, UpdateRequest& request, bool has_version) {
  auto at = request.name.find('@');
  if (at == request.name.npos) {
    if (!has_version) reader.complain_about("version", "is needed, unless 'checkpoint' is NAME@VERSION");
    return;
  }
  if (has_version) return reader.complain_about("version", "stands beside a 'checkpoint' that names one already");
  request.version = request.name.substr(at + 1);
  request.name.resize(at);
  if (request.version.empty()) reader.complain_about("checkpoint", "names no version behind the @");
}

void read_policy(ObjectReader& reader, LoadPolicy& policy) {
  std::optional<std::string> name;
  reader.optional("policy", name);
  if (!name) return;
  if (auto known = load_policy_named(*name))
    policy = *known;
  else
    reader.complain_about("policy", R"(is "availability" or "resource")");
}

}  // namespace

std::string_view name_of(LoadPolicy policy) {
  return policy == LoadPolicy::resource ? "resource" : "availability";
}

std::optional<LoadPolicy> load_policy_named(std::string_view name) {
  for (auto policy : {LoadPolicy::availability, LoadPolicy::resource})
    if (name_of(policy) == name) return policy;
  return std::nullopt;
}

Result<LoadRequest> parse_load_request(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  LoadRequest request;
  if (const auto* source = reader.take("source")) {
    ObjectReader nested(*source, kReadingRequest, "source");
    nested.required("uri", request.source_uri);
    refuse_empty(nested, "uri", request.source_uri);
    reader.join(nested.finish());
  } else {
    reader.complain_about("source", R"(is missing; write "source":{"uri":"file:///directory"})");
  }
  reader.optional("keep", request.keep);
  read_policy(reader, request.policy);
  CKPTD_TRY(reader.finish());
  return request;
}

namespace {

/// Nothing is accepted that would be without effect: what becomes of the engine meanwhile is said by whoever calls it.
void read_trigger(ObjectReader& reader, UpdateRequest& request) {
  std::string trigger = "ckptd";
  reader.optional("trigger", trigger);
  reader.optional("sessions", request.sessions);
  request.external = trigger == "external";
  if (!request.external && trigger != "ckptd")
    reader.complain_about("trigger", R"(is "ckptd" or "external")");
  if (!request.external && request.sessions)
    reader.complain_about("sessions", R"(goes with "trigger":"external": otherwise the engine's answer ends the update)");
  if (request.sessions && (*request.sessions < 1 || *request.sessions > kMostSessions))
    reader.complain_about("sessions", fmt::format("is a number from 1 to {}", kMostSessions));
  if (!request.external) return;
  const auto not_ours = [&](std::string_view name, bool is_there) {
    if (is_there) reader.complain_about(name, R"(does not go with "trigger":"external": whoever calls the engine does that)");
  };
  not_ours("flush_cache", request.flush_cache.has_value());
  not_ours("pause", request.pause.has_value());
  not_ours("weight_version", !request.weight_version.empty());
  not_ours("max_unavailable", request.max_unavailable.has_value());
}

}  // namespace

Result<UpdateRequest> parse_update_request(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  UpdateRequest request;
  std::optional<std::string> version;
  reader.required("checkpoint", request.name);
  reader.optional("version", version);
  reader.optional("engines", request.engines);
  reader.optional("dry_run", request.dry_run);
  reader.optional("force", request.force);
  reader.optional("bucket_bytes", request.bucket_bytes);
  reader.optional("flush_cache", request.flush_cache);
  reader.optional("pause", request.pause);
  reader.optional("on_failure", request.on_failure);
  reader.optional("weight_version", request.weight_version);
  reader.optional("max_unavailable", request.max_unavailable);
  read_trigger(reader, request);

  request.version = version.value_or("");
  if (version) refuse_empty(reader, "version", *version);
  split_version_off(reader, request, version.has_value());
  refuse_empty(reader, "checkpoint", request.name);
  refuse_empty(reader, "engines", request.engines);
  // It goes into the journal, into logs and to every engine.
  if (shown(request.weight_version, kMostLabelBytes) != request.weight_version)
    reader.complain_about("weight_version", fmt::format("is a text of at most {} bytes without control characters",
                                                        kMostLabelBytes));
  if (request.bucket_bytes == 0) reader.complain_about("bucket_bytes", "must be more than 0");
  if (request.bucket_bytes > std::uint64_t{1} << 62)
    reader.complain_about("bucket_bytes", "is more than any machine has");
  CKPTD_TRY(reader.finish());
  return request;
}

Result<EngineRequest> parse_engine_request(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  EngineRequest request;
  reader.required("kind", request.kind);
  reader.required("endpoint", request.endpoint);
  reader.required("checkpoint", request.checkpoint);
  reader.optional("devices", request.devices);
  reader.optional("api_key_file", request.api_key_file);
  reader.optional("admin_key_file", request.admin_key_file);
  reader.optional("transfer", request.transfer);
  if (std::ranges::find(kTransfers, request.transfer) == kTransfers.end())
    reader.complain_about("transfer", R"(is "auto", "checkpoint-engine" or "native")");
  refuse_relative(reader, "api_key_file", request.api_key_file);
  refuse_relative(reader, "admin_key_file", request.admin_key_file);
  refuse_empty(reader, "kind", request.kind);
  refuse_empty(reader, "endpoint", request.endpoint);
  refuse_empty(reader, "checkpoint", request.checkpoint);
  refuse_empty(reader, "devices", request.devices);
  reader.optional("target", request.target);
  reader.optional("follow", request.follow);
  reader.optional("wake", request.wake);
  if (request.wake != "none" && request.wake != "weights" && request.wake != "all")
    reader.complain_about("wake", R"(is "none", "weights" or "all")");
  reader.optional("pause", request.pause);
  reader.optional("flush_cache", request.flush_cache);
  reader.optional("on_failure", request.on_failure);
  CKPTD_TRY(reader.finish());
  return request;
}

Result<EngineChange> parse_engine_change(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  EngineChange change;
  reader.required("target", change.target);
  refuse_empty(reader, "target", change.target);
  CKPTD_TRY(reader.finish());
  return change;
}

Result<RollbackRequest> parse_rollback_request(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  RollbackRequest request;
  reader.optional("engines", request.engines);
  reader.optional("force", request.force);
  refuse_empty(reader, "engines", request.engines);
  CKPTD_TRY(reader.finish());
  return request;
}

Result<bool> parse_keep_request(std::string_view body) {
  auto document = CKPTD_TRY(parse_document(body));
  ObjectReader reader(document, kReadingRequest);
  bool kept = false;
  reader.required("kept", kept);
  CKPTD_TRY(reader.finish());
  return kept;
}

json to_json(const LoadRequest& request) {
  json object{{"source", {{"uri", request.source_uri}}}, {"keep", request.keep}};
  if (request.policy != LoadPolicy::availability) object["policy"] = name_of(request.policy);
  return object;
}

json to_json(const UpdateRequest& request) {
  json object{{"checkpoint", request.name}, {"version", request.version}, {"engines", request.engines},
              {"dry_run", request.dry_run}, {"force", request.force}};
  // Only what was asked for: an older daemon refuses members that it does not know.
  if (request.flush_cache) object["flush_cache"] = *request.flush_cache;
  if (request.pause) object["pause"] = *request.pause;
  if (request.on_failure) object["on_failure"] = *request.on_failure;
  if (!request.weight_version.empty()) object["weight_version"] = request.weight_version;
  if (request.max_unavailable) object["max_unavailable"] = *request.max_unavailable;
  if (request.bucket_bytes) object["bucket_bytes"] = *request.bucket_bytes;
  if (request.external) object["trigger"] = "external";
  if (request.sessions) object["sessions"] = *request.sessions;
  return object;
}

json to_json(const EngineRequest& request) {
  json object{{"kind", request.kind},
              {"endpoint", request.endpoint},
              {"checkpoint", request.checkpoint},
              {"devices", request.devices}};
  if (!request.api_key_file.empty()) object["api_key_file"] = request.api_key_file;
  if (!request.admin_key_file.empty()) object["admin_key_file"] = request.admin_key_file;
  // Only what is not usual: an older daemon refuses members that it does not know.
  if (!request.target.empty()) object["target"] = request.target;
  if (!request.follow) object["follow"] = false;
  if (request.wake != "none") object["wake"] = request.wake;
  if (request.pause != "auto") object["pause"] = request.pause;
  if (!request.flush_cache) object["flush_cache"] = false;
  if (request.on_failure != "repush") object["on_failure"] = request.on_failure;
  if (request.transfer != "auto") object["transfer"] = request.transfer;
  return object;
}

json to_json(const EngineChange& change) {
  return {{"target", change.target}};
}

json to_json(const RollbackRequest& request) {
  return {{"engines", request.engines}, {"force", request.force}};
}

}  // namespace ckptd::proto::control
