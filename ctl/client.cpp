#include "ctl/client.h"

#include <algorithm>

#include "ctl/answers.h"

namespace ckptd::ctl {
namespace {

using nlohmann::json;

// The daemon gives a handler a minute: who gives up sooner never learns how it ended.
constexpr http::Limits kLimits{std::chrono::milliseconds(5'000), std::chrono::milliseconds(70'000), 256 << 20};

// The daemon says something every 15 seconds.
constexpr std::chrono::seconds kSilence{45};

std::string path_of(const CheckpointName& checkpoint) {
  return fmt::format("/v1/checkpoints/{}/versions/{}", http::percent_encode(checkpoint.name),
                     http::percent_encode(checkpoint.version));
}

std::string path_of_job(const std::string& id) {
  return "/v1/jobs/" + http::percent_encode(id);
}
std::string path_of_engine(const std::string& name) {
  return "/v1/engines/" + http::percent_encode(name);
}

http::Request request_for(std::string method, std::string target, std::string body = {},
                          const std::string& idempotency_key = {}) {
  http::Request request{std::move(method), std::move(target), std::move(body)};
  if (!idempotency_key.empty()) request.headers.emplace_back("Idempotency-Key", idempotency_key);
  return request;
}

std::string text_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Result<json> Client::call(const http::Request& request, std::chrono::seconds longer) const {
  auto limits = kLimits;
  limits.response += longer;
  auto response = http::send({.host = {}, .port = 0, .unix_path = socket_path_}, request, limits, stop_);
  if (!response) return std::unexpected(explain_no_answer(std::move(response).error(), socket_path_));
  return read_answer(*response, request.method + " " + request.target);
}

Result<Answer<api::Job>> Client::load(const api::LoadRequest& request) const {
  return typed(CKPTD_TRY(call(request_for("PUT", path_of({request.name, request.version}),
                                          text_of(api::to_json(request)), request.idempotency_key))),
               api::parse_job);
}

Result<Answer<api::Job>> Client::update(const api::UpdateRequest& request) const {
  return typed(
      CKPTD_TRY(call(request_for("POST", "/v1/updates", text_of(api::to_json(request)), request.idempotency_key))),
      api::parse_job);
}

Result<Answer<api::UpdatePreview>> Client::preview_update(const api::UpdateRequest& request) const {
  return typed(CKPTD_TRY(call(request_for("POST", "/v1/updates", text_of(api::to_json(request))))),
               api::parse_update_preview);
}

Result<Answer<std::vector<api::Version>>> Client::versions() const {
  return typed_list(CKPTD_TRY(call(request_for("GET", "/v1/checkpoints"))), "versions", api::parse_version);
}

Result<Answer<api::Version>> Client::version(const CheckpointName& checkpoint, bool tensors) const {
  return typed(CKPTD_TRY(call(request_for("GET", path_of(checkpoint) + (tensors ? "?tensors=true" : "")))),
               api::parse_version);
}

Result<json> Client::evict(const CheckpointName& checkpoint, bool forget) const {
  return call(request_for("DELETE", path_of(checkpoint) + (forget ? "?forget=true" : "")));
}

Result<Answer<api::Version>> Client::set_kept(const CheckpointName& checkpoint, bool kept) const {
  return typed(CKPTD_TRY(call(request_for("PATCH", path_of(checkpoint), text_of(json{{"kept", kept}})))),
               api::parse_version);
}

Result<Answer<api::Trimmed>> Client::trim() const {
  return typed(CKPTD_TRY(call(request_for("POST", "/v1/store/trim"))), parse_trimmed);
}

Result<Answer<std::vector<api::Job>>> Client::jobs() const {
  return typed_list(CKPTD_TRY(call(request_for("GET", "/v1/jobs"))), "jobs", api::parse_job);
}

Result<Answer<api::Job>> Client::job(const std::string& id, std::chrono::seconds wait) const {
  auto target = path_of_job(id);
  if (wait.count() > 0) target += fmt::format("?wait={}", wait.count());
  return typed(CKPTD_TRY(call(request_for("GET", target), wait)), api::parse_job);
}

Result<Answer<api::Job>> Client::cancel_job(const std::string& id, bool force) const {
  return typed(CKPTD_TRY(call(request_for("DELETE", path_of_job(id) + (force ? "?force=true" : "")))), api::parse_job);
}

Result<json> Client::trace(const std::string& id) const {
  return call(request_for("GET", path_of_job(id) + "/trace"));
}

Result<Answer<api::Job>> Client::probe() const {
  return typed(CKPTD_TRY(call(request_for("POST", "/v1/probe"))), api::parse_job);
}

Result<Answer<api::Job>> Client::verify(const std::string& engine) const {
  return typed(CKPTD_TRY(call(request_for("POST", path_of_engine(engine) + "/verify"))), api::parse_job);
}

Result<> Client::follow(http::Request request, const EventSink& sink, Deadline until) const {
  request.headers.emplace_back("Accept", "text/event-stream");
  api::EventReader reader;
  Result<> understood;
  bool opened = false;
  auto take = [&](std::string_view bytes) {
    if (!std::exchange(opened, true)) sink.opened();
    understood = reader.feed(bytes);
    if (!understood) return false;
    while (auto event = reader.next())
      if (!sink.event(*event)) return false;
    return true;
  };
  http::StreamLimits limits{.connect = kLimits.connect, .silence = kSilence, .until = until};
  auto response = http::follow({.host = {}, .port = 0, .unix_path = socket_path_}, request, limits, take, stop_);
  if (!understood) return std::unexpected(not_understood(std::move(understood).error()));
  if (!response) return std::unexpected(explain_no_answer(std::move(response).error(), socket_path_));
  if (response->status != 200) CKPTD_TRY(read_answer(*response, request.method + " " + request.target));
  return {};
}

Result<> Client::follow_all(const std::string& last_event_id, const EventSink& sink) const {
  auto request = request_for("GET", "/v1/events");
  if (!last_event_id.empty()) request.headers.emplace_back("Last-Event-ID", last_event_id);
  return follow(std::move(request), sink, Deadline(Clock::time_point::max()));
}

Result<> Client::follow_job(const std::string& id, const EventSink& sink, Deadline until) const {
  return follow(request_for("GET", path_of_job(id) + "/events"), sink, until);
}

Result<Answer<std::vector<api::Engine>>> Client::engines() const {
  return typed_list(CKPTD_TRY(call(request_for("GET", "/v1/engines"))), "engines", api::parse_engine);
}

Result<Answer<api::Engine>> Client::engine(const std::string& name) const {
  return typed(CKPTD_TRY(call(request_for("GET", path_of_engine(name)))), api::parse_engine);
}

Result<Answer<api::Engine>> Client::put_engine(const api::EngineRequest& request) const {
  return typed(CKPTD_TRY(call(request_for("PUT", path_of_engine(request.name), text_of(api::to_json(request))))),
               api::parse_engine);
}

Result<json> Client::remove_engine(const std::string& name) const {
  return call(request_for("DELETE", path_of_engine(name)));
}

Result<Answer<api::Engine>> Client::change_engine(const std::string& name, const api::EngineChange& change) const {
  return typed(CKPTD_TRY(call(request_for("PATCH", path_of_engine(name), text_of(api::to_json(change))))),
               api::parse_engine);
}

Result<Answer<api::Job>> Client::roll_back(const api::RollbackRequest& request) const {
  return typed(
      CKPTD_TRY(call(request_for("POST", "/v1/rollbacks", text_of(api::to_json(request)), request.idempotency_key))),
      api::parse_job);
}

Result<Answer<api::Engine>> Client::set_drained(const std::string& engine, bool drained) const {
  return typed(CKPTD_TRY(call(request_for("POST", path_of_engine(engine) + (drained ? "/drain" : "/undrain")))),
               api::parse_engine);
}

Result<Answer<api::Status>> Client::set_node_drained(bool drained) const {
  return typed(CKPTD_TRY(call(request_for("POST", drained ? "/v1/drain" : "/v1/undrain"))), api::parse_status);
}

Result<Answer<api::Status>> Client::status() const {
  return typed(CKPTD_TRY(call(request_for("GET", "/v1/status"))), api::parse_status);
}

Result<Answer<api::Reload>> Client::reload() const {
  return typed(CKPTD_TRY(call(request_for("POST", "/v1/reload"))), api::parse_reload);
}

}  // namespace ckptd::ctl
