// Requests to handlers: the table of routes, how a path finds its route, and what is answered when it finds none.
// Plain values and functions; nothing here knows of sockets or of an HTTP library.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/result.h"
#include "daemon/operations/operations.h"

namespace ckptd::control {

struct Request {
  std::string method;
  std::string path;                                 ///< as it came, escapes included
  std::string query = {};                           ///< behind the ?, as it came
  std::map<std::string, std::string> headers = {};  ///< by lower-case name; only those that handlers read
  std::string body = {};

  std::string show() const { return method + " " + path; }
};

/// A client wants to be told what happens, until it leaves or the job has ended.
struct EventsWanted {
  std::optional<operations::api::Job> job = {};  ///< as it is now; absent: everything
  std::string last_event_id = {};
};

struct Response {
  unsigned status = 200;
  nlohmann::json json = nlohmann::json::object();
  std::vector<std::pair<std::string, std::string>> headers = {};
  /// The client would rather wait up to this long for a better answer: ask the same again before sending this one.
  std::chrono::milliseconds may_wait{0};
  std::optional<EventsWanted> events = {};  ///< a stream of events instead of a body
  std::string text = {};                    ///< a body of `content_type` instead of the JSON
  std::string content_type = "application/json";

  /// The text, or compact JSON and a newline. Never throws: bytes that are not UTF-8 are replaced.
  std::string body() const;
};

/// What a handler is given: the request, and its path and query cut up and decoded.
struct Call {
  const Request& request;
  std::map<std::string, std::string, std::less<>> path;  ///< "name", "version", "id"
  std::map<std::string, std::string, std::less<>> query;
};

using Handler = std::function<Result<Response>(operations::Operations& operations, const Call& call)>;

struct Route {
  std::string_view method;
  std::string_view pattern;  ///< "/v1/engines/{name}": a name in braces is one segment
  Handler handler;
  std::vector<std::string_view> query = {};  ///< the parameters that it takes
  bool immediate = false;                    ///< touches no operation: runs on the thread that serves
};

struct Match {
  const Route* route;
  Call call;
};

/// Of the control socket.
std::span<const Route> routes();
/// Of the metrics listener: /metrics, /healthz and /readyz, nothing that changes or tells anything else.
std::vector<Route> metrics_routes(std::function<std::string()> metrics);

/// The route of a request, or the answer that says why there is none: 404 with the nearest routes, 405 with Allow, 400
/// for escapes and parameters. The match refers to the routes and the request.
std::variant<Match, Response> find_route(std::span<const Route> routes, const Request& request);

/// Calls the handler of a match. Never throws; whatever goes wrong is a response.
Response run_handler(operations::Operations& operations, const Match& match);

/// The error object with the status of its kind, or with `status` if that is not 0. Of an internal error the client
/// learns what was asked and where to look; sentence, vendor text and facts go to the log.
Response error_response(const Error& error, std::string_view while_doing, unsigned status = 0);

}  // namespace ckptd::control
