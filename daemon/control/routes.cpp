#include "daemon/control/routes.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "common/http_client.h"
#include "daemon/control/handlers.h"
#include "daemon/control/parameters.h"
#include "proto/control/outcome.h"

namespace ckptd::control {
namespace {

using namespace handlers;

constexpr std::string_view kVersion = "/v1/checkpoints/{name}/versions/{version}";
constexpr std::string_view kEngine = "/v1/engines/{name}";
constexpr std::string_view kJob = "/v1/jobs/{id}";
/// The text format that Prometheus reads, of the version that prometheus-cpp writes.
constexpr std::string_view kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

const std::array kRoutes{
    Route{"GET", "/healthz", healthz, {}, true},
    Route{"GET", "/readyz", readyz},
    Route{"GET", "/v1/status", handlers::status},
    Route{"POST", "/v1/reload", handlers::reload},
    Route{"GET", "/v1/checkpoints", list_checkpoints},
    Route{"GET", "/v1/checkpoints/{name}", list_versions},
    Route{"PUT", kVersion, put_version},
    Route{"GET", kVersion, get_version, {"tensors"}},
    Route{"PATCH", kVersion, patch_version},
    Route{"DELETE", kVersion, delete_version, {"forget"}},
    Route{"POST", "/v1/store/trim", trim_store},
    Route{"POST", "/v1/updates", post_update},
    Route{"GET", "/v1/jobs", list_jobs},
    Route{"GET", kJob, get_job, {"wait"}},
    Route{"DELETE", kJob, delete_job, {"force"}},
    Route{"GET", "/v1/jobs/{id}/trace", get_trace},
    Route{"POST", "/v1/probe", post_probe},
    Route{"GET", "/v1/jobs/{id}/events", watch_job},
    Route{"GET", "/v1/events", watch_everything, {}, true},
    Route{"GET", "/v1/engines", list_engines},
    Route{"PUT", kEngine, put_engine},
    Route{"GET", kEngine, get_engine},
    Route{"DELETE", kEngine, delete_engine},
    Route{"PATCH", kEngine, patch_engine},
    Route{"GET", "/v1/engines/{name}/ready", engine_ready, {"serving"}},
    Route{"POST", "/v1/engines/{name}/verify", verify_engine},
    Route{"POST", "/v1/engines/{name}/drain", drain_engine},
    Route{"POST", "/v1/engines/{name}/undrain", undrain_engine},
    Route{"POST", "/v1/drain", drain_node},
    Route{"POST", "/v1/undrain", undrain_node},
    Route{"POST", "/v1/rollbacks", post_rollback},
};

std::vector<std::string_view> segments_of(std::string_view path) {
  std::vector<std::string_view> segments;
  path.remove_prefix(std::min<std::size_t>(1, path.size()));
  for (;;) {
    auto slash = path.find('/');
    segments.push_back(path.substr(0, slash));
    if (slash == path.npos) return segments;
    path.remove_prefix(slash + 1);
  }
}

bool is_variable(std::string_view segment) {
  return segment.starts_with('{');
}

bool fits(std::string_view pattern, const std::vector<std::string_view>& segments) {
  return std::ranges::equal(segments_of(pattern), segments, [](std::string_view wanted, std::string_view given) {
    return is_variable(wanted) ? !given.empty() : wanted == given;
  });
}

/// A variable segment of a path, decoded. Control characters are nobody's name and would only confuse whoever reads
/// the sentence about them.
Result<std::string> decode_segment(std::string_view segment) {
  auto decoded = CKPTD_TRY(http::percent_decode(segment));
  if (std::ranges::any_of(decoded, [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
    return fail(ErrorKind::invalid_argument, "'{}' has a control character", segment);
  return decoded;
}

Result<Match> matched(const Route& route, const Request& request, const std::vector<std::string_view>& segments) {
  Match match{&route, Call{request, {}, {}}};
  auto pattern = segments_of(route.pattern);
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (!is_variable(pattern[i])) continue;
    auto value = CKPTD_TRY(decode_segment(segments[i]));
    match.call.path.emplace(pattern[i].substr(1, pattern[i].size() - 2), std::move(value));
  }
  match.call.query = CKPTD_TRY(parse_query(request.query, route.query));
  return match;
}

// ---- no route ----

/// /v1/checkpoints/Qwen/Qwen3-8B/versions/7, a name whose slashes are not escaped, is guessed at and corrected.
std::optional<Error> about_bare_slashes(std::string_view path, const std::vector<std::string_view>& segments) {
  if (segments.size() < 4 || segments[0] != "v1" || segments[1] != "checkpoints") return std::nullopt;
  auto versions = std::find(segments.begin() + 3, segments.end(), "versions");
  std::vector<std::string_view> name(segments.begin() + 2, versions);
  if (name.size() < 2) return std::nullopt;
  std::string rest = versions == segments.end() ? fmt::format("; a version is at {}", kVersion)
                                                : fmt::format("/{}", fmt::join(versions, segments.end(), "/"));
  return Error{ErrorKind::invalid_argument,
               fmt::format("{} is no path: a slash in a checkpoint's name is written %2F, as in /v1/checkpoints/{}{}",
                           path, fmt::join(name, "%2F"), rest)};
}

std::size_t likeness(std::string_view pattern, const std::vector<std::string_view>& segments) {
  auto wanted = segments_of(pattern);
  auto common = std::min(wanted.size(), segments.size());
  std::size_t same = 0;
  while (same < common && (wanted[same] == segments[same] || is_variable(wanted[same]))) ++same;
  return same;
}

Response not_found(std::span<const Route> routes, const Request& request,
                   const std::vector<std::string_view>& segments) {
  std::size_t best = 0;
  for (const auto& route : routes) best = std::max(best, likeness(route.pattern, segments));
  std::set<std::string_view> near;
  for (const auto& route : routes)
    if (likeness(route.pattern, segments) == best) near.insert(route.pattern);
  auto sentence = fmt::format("there is no {}; there is {}", request.path.substr(0, 200), fmt::join(near, ", "));
  return error_response(Error{ErrorKind::not_found, std::move(sentence)}, request.show());
}

Response wrong_method(const Request& request, const std::vector<std::string_view>& allowed) {
  auto list = fmt::format("{}", fmt::join(allowed, ", "));
  auto sentence = fmt::format("{} does not take {}; it takes {}", request.path, request.method, list);
  auto response = error_response(Error{ErrorKind::invalid_argument, std::move(sentence)}, request.show(), 405);
  response.headers.emplace_back("Allow", std::move(list));
  return response;
}

}  // namespace

std::string Response::body() const {
  if (!text.empty()) return text;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::span<const Route> routes() {
  return kRoutes;
}

std::vector<Route> metrics_routes(std::function<std::string()> metrics) {
  auto exposition = [metrics = std::move(metrics)](operations::Operations&, const Call&) -> Result<Response> {
    return Response{.text = metrics(), .content_type = std::string(kMetricsType)};
  };
  return {{"GET", "/metrics", std::move(exposition)}, {"GET", "/healthz", healthz, {}, true}, {"GET", "/readyz", readyz}};
}

std::variant<Match, Response> find_route(std::span<const Route> routes, const Request& request) {
  if (!request.path.starts_with('/')) {
    auto sentence = fmt::format("'{}' is no path; it begins with /", request.path);
    return error_response(Error{ErrorKind::invalid_argument, std::move(sentence)}, request.show());
  }
  auto segments = segments_of(request.path);
  std::vector<std::string_view> allowed;
  for (const auto& route : routes) {
    if (!fits(route.pattern, segments)) continue;
    allowed.push_back(route.method);
    if (route.method != request.method) continue;
    auto match = matched(route, request, segments);
    if (!match) return error_response(match.error(), request.show());
    return *std::move(match);
  }
  if (!allowed.empty()) return wrong_method(request, allowed);
  if (auto error = about_bare_slashes(request.path, segments)) return error_response(*error, request.show());
  return not_found(routes, request, segments);
}

Response run_handler(operations::Operations& operations, const Match& match) {
  const auto& request = match.call.request;
  try {
    auto response = match.route->handler(operations, match.call);
    if (response) return *std::move(response);
    return error_response(response.error(), request.show());
  } catch (const std::exception& failure) {
    return error_response(Error{ErrorKind::internal, failure.what()}, request.show());
  } catch (...) {
    return error_response(Error{ErrorKind::internal, "an exception that is none of the standard library's"},
                          request.show());
  }
}

Response error_response(const Error& error, std::string_view while_doing, unsigned status) {
  Response response{.status = status != 0 ? status : proto::control::outcome_of(error.kind).http_status};
  if (error.kind != ErrorKind::internal) {
    response.json = proto::control::to_json(error);
    return response;
  }
  std::string facts;
  for (const auto& [name, value] : error.facts) facts += fmt::format(" {}={}", name, value);
  spdlog::error("{}: internal error: {}{} {}", while_doing, error.sentence, facts, error.vendor);
  response.json = proto::control::to_json(
      Error{ErrorKind::internal, fmt::format("{}: internal error, see the daemon's log", while_doing)});
  return response;
}

}  // namespace ckptd::control
