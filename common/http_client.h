// One HTTP/1.1 request over TCP or a Unix socket.
//
// send() blocks the calling thread until the whole response is here, a limit is reached or the stop token is signalled;
// it owns everything that it needs and may be called from any number of threads at once. Plain HTTP only: engines are
// on this node or on a private network. A connection is used for one request and closed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"

namespace ckptd::http {

/// Where a server listens: "http://host:port", "http://[::1]:30000", "host:port" or "unix:/path/to.sock".
struct Endpoint {
  std::string host;  ///< empty for a Unix socket
  std::uint16_t port = 0;
  std::string unix_path;  ///< empty for TCP

  /// Port 0 stands for "any" where one listens, and is no place to connect to.
  static Result<Endpoint> parse(std::string_view text, std::uint16_t lowest_port = 1);
  std::string show() const;
  bool operator==(const Endpoint&) const = default;
};

struct Request {
  std::string method = "GET";
  std::string target = "/";
  std::string body = {};  ///< sent as application/json when not empty
  std::vector<std::pair<std::string, std::string>> headers = {};
};

struct Response {
  unsigned status = 0;
  std::string body;
};

struct Limits {
  std::chrono::milliseconds connect{5'000};    ///< from the name to the open connection
  std::chrono::milliseconds response{30'000};  ///< from the open connection to the last byte of the answer
  std::uint64_t body_bytes = 16 << 20;
};

/// Errors: unavailable (nobody listens, or the connection ended early), denied (the socket's mode keeps us out),
/// timed_out, cancelled (stop token), corrupt (not HTTP, or a body above the limit), invalid_argument (a request that
/// cannot be written as HTTP). An HTTP status of any value is not an error here.
Result<Response> send(const Endpoint& to, const Request& request, const Limits& limits, std::stop_token stop = {});

struct StreamLimits {
  std::chrono::milliseconds connect{5'000};
  std::chrono::milliseconds silence{60'000};  ///< from one byte of the answer to the next, the first included
  std::uint64_t body_bytes = 1 << 20;         ///< of an answer that is no success
  Deadline until = Deadline(Clock::time_point::max());
};

/// As send(), for an answer that goes on: the body of a 200 is given to `sink` as it comes, until the server ends it or
/// `sink` returns false; the response then has no body. Any other status comes back with its body. timed_out also at
/// `until`.
Result<Response> follow(const Endpoint& to, const Request& request, const StreamLimits& limits,
                        const std::function<bool(std::string_view)>& sink, std::stop_token stop = {});

/// "a%2Fb" -> "a/b"; an error for a broken escape. And its inverse for one path segment.
Result<std::string> percent_decode(std::string_view text);
std::string percent_encode(std::string_view text);

}  // namespace ckptd::http
