#include "common/http_client.h"

#include <netdb.h>
#include <sys/un.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "common/deadline.h"

namespace ckptd::http {
namespace {

namespace asio = boost::asio;
namespace wire = boost::beast::http;
using boost::system::error_code;
using Stream = asio::generic::stream_protocol;

constexpr std::size_t kUnixPathBytes = sizeof(sockaddr_un::sun_path) - 1;
constexpr std::uint32_t kHeaderBytes = 64 << 10;

double seconds(std::chrono::milliseconds span) {
  return std::chrono::duration<double>(span).count();
}

std::unexpected<Error> cancelled(const Endpoint& to) {
  return fail(ErrorKind::cancelled, "the request to {} was cancelled", to.show());
}

// ---- names to addresses ----

/// What the thread that resolves leaves behind. Shared, because getaddrinfo cannot be interrupted: who waits goes away
/// at its deadline, and the thread ends whenever the resolver lets it.
struct Lookup {
  std::mutex mutex;
  std::condition_variable_any ended;
  bool done = false;
  int error = 0;
  std::vector<asio::ip::address> addresses;
};

void look_up(const std::shared_ptr<Lookup>& lookup, const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &list);
  std::lock_guard lock(lookup->mutex);
  lookup->error = error;
  for (auto* entry = error == 0 ? list : nullptr; entry != nullptr; entry = entry->ai_next) {
    Stream::endpoint generic(entry->ai_addr, entry->ai_addrlen);
    asio::ip::tcp::endpoint tcp;
    if (generic.size() > tcp.capacity()) continue;
    std::copy_n(reinterpret_cast<const char*>(generic.data()), generic.size(), reinterpret_cast<char*>(tcp.data()));
    lookup->addresses.push_back(tcp.address());
  }
  if (error == 0) ::freeaddrinfo(list);
  lookup->done = true;
  lookup->ended.notify_all();
}

Result<std::vector<asio::ip::address>> resolve(const Endpoint& to, Deadline deadline, std::stop_token stop) {
  error_code not_numeric;
  auto address = asio::ip::make_address(to.host, not_numeric);
  if (!not_numeric) return std::vector{address};

  auto lookup = std::make_shared<Lookup>();
  std::thread([lookup, host = to.host] { look_up(lookup, host); }).detach();
  std::unique_lock lock(lookup->mutex);
  if (!lookup->ended.wait_until(lock, stop, deadline.at(), [&] { return lookup->done; })) {
    if (stop.stop_requested()) return cancelled(to);
    return fail(ErrorKind::timed_out, "the name of {} could not be resolved in time; is the name server reachable?",
                to.show());
  }
  if (lookup->error != 0 || lookup->addresses.empty())
    return fail(ErrorKind::unavailable, "the name of {} cannot be resolved: {}", to.show(),
                ::gai_strerror(lookup->error));
  return std::move(lookup->addresses);
}

Result<std::vector<Stream::endpoint>> addresses_of(const Endpoint& to, Deadline deadline, std::stop_token stop) {
  if (!to.unix_path.empty()) {
    if (to.unix_path.size() > kUnixPathBytes)
      return fail(ErrorKind::invalid_argument, "{}: the path has {} bytes, a Unix socket's has at most {}", to.show(),
                  to.unix_path.size(), kUnixPathBytes);
    return std::vector{Stream::endpoint(asio::local::stream_protocol::endpoint(to.unix_path))};
  }
  auto addresses = CKPTD_TRY(resolve(to, deadline, std::move(stop)));
  std::vector<Stream::endpoint> endpoints;
  for (const auto& address : addresses) endpoints.emplace_back(asio::ip::tcp::endpoint(address, to.port));
  return endpoints;
}

// ---- the request as HTTP ----

bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](unsigned char c) {
    return (c < 0x80 && std::isalnum(c) != 0) || kMarks.find(static_cast<char>(c)) != kMarks.npos;
  });
}

bool is_one_line(std::string_view text) {
  return std::ranges::none_of(text, [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
}

using WireRequest = wire::request<wire::string_body>;

/// Refuses whatever would end a line early: a header smuggled in through a value must not reach the peer.
Result<WireRequest> written_out(const Endpoint& to, const Request& request) {
  auto refuse = [&](std::string_view what, std::string_view text) {
    return fail(ErrorKind::invalid_argument, "the request to {} has an impossible {}: '{}'", to.show(), what, text);
  };
  if (!is_token(request.method)) return refuse("method", request.method);
  bool visible = std::ranges::all_of(request.target, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (!request.target.starts_with('/') || !visible) return refuse("target", request.target);

  WireRequest message;
  message.version(11);
  message.method_string(request.method);
  message.target(request.target);
  message.set(wire::field::host,
              to.unix_path.empty() ? to.show().substr(std::string_view("http://").size()) : "localhost");
  message.set(wire::field::connection, "close");
  message.set(wire::field::accept, "application/json");
  if (!request.body.empty()) message.set(wire::field::content_type, "application/json");
  for (const auto& [name, value] : request.headers) {
    if (!is_token(name)) return refuse("header name", name);
    if (!is_one_line(value)) return refuse("value of the header", name);
    message.set(name, value);
  }
  message.body() = request.body;
  message.prepare_payload();
  return message;
}

// ---- one exchange ----

/// Runs one asynchronous step after the other, each until a deadline or the stop. A step that is given up leaves its
/// handler inside io_, which destroys it without running it; so nothing may outlive io_ that a handler refers to, and
/// the object is used no further.
class Exchange {
 public:
  Exchange(const Endpoint& to, const Limits& limits, std::stop_token stop)
      : to_(to), limits_(limits), stop_(std::move(stop)) {}

  Result<Response> run(const WireRequest& request) {
    std::stop_callback on_stop(stop_, [this] { io_.stop(); });
    CKPTD_TRY(connect());
    return exchange(request, Deadline::in(limits_.response));
  }

  Result<Response> follow(const WireRequest& request, Deadline until, const std::function<bool(std::string_view)>& sink) {
    std::stop_callback on_stop(stop_, [this] { io_.stop(); });
    CKPTD_TRY(connect());
    return receive_stream(request, until, sink);
  }

 private:
  /// The outcome of a step; nothing when it did not end in time or was stopped.
  template <class Start>
  std::optional<error_code> step(Deadline deadline, Start start) {
    std::optional<error_code> outcome;
    io_.restart();
    // A stop before restart() is seen here, one after it ends run_until().
    if (stop_.stop_requested()) return std::nullopt;
    start([&outcome](error_code error, auto&&...) { outcome = error; });
    io_.run_until(deadline.at());
    return outcome;
  }

  std::unexpected<Error> given_up(std::string_view doing, std::chrono::milliseconds limit) const {
    if (stop_.stop_requested()) return cancelled(to_);
    return fail(ErrorKind::timed_out, "{} did not {} within {} s", to_.show(), doing, seconds(limit));
  }

  Result<> connect() {
    auto deadline = Deadline::in(limits_.connect);
    auto addresses = CKPTD_TRY(addresses_of(to_, deadline, stop_));
    auto outcome = step(deadline, [&](auto handler) { asio::async_connect(socket_, addresses, handler); });
    if (!outcome) return given_up("accept a connection", limits_.connect);
    if (!*outcome) return {};
    bool kept_out = *outcome == asio::error::access_denied || *outcome == asio::error::no_permission;
    return fail(kept_out ? ErrorKind::denied : ErrorKind::unavailable, "cannot connect to {}: {}", to_.show(),
                outcome->message());
  }

  Result<Response> exchange(const WireRequest& request, Deadline deadline) {
    auto sent = step(deadline, [&](auto handler) { wire::async_write(socket_, request, handler); });
    if (!sent) return given_up("take the request", limits_.response);
    // A server that refuses early closes before it has read everything; its answer may be there all the same.
    wire::response_parser<wire::string_body> parser;
    parser.header_limit(kHeaderBytes);
    parser.body_limit(limits_.body_bytes);
    parser.skip(request.method() == wire::verb::head);
    boost::beast::flat_buffer buffer;
    auto received = step(deadline, [&](auto handler) { wire::async_read(socket_, buffer, parser, handler); });
    if (!received) return given_up("answer", limits_.response);
    if (*received) return unreadable(*received);
    return Response{parser.get().result_int(), std::move(parser.get().body())};
  }

  /// Every step may take as long as a whole response may elsewhere.
  Result<Response> receive_stream(const WireRequest& request, Deadline until,
                                  const std::function<bool(std::string_view)>& sink) {
    auto soon = [&] { return Deadline::in(limits_.response).earlier(until); };
    auto sent = step(soon(), [&](auto handler) { wire::async_write(socket_, request, handler); });
    if (!sent) return given_up("take the request", limits_.response);
    wire::response_parser<wire::string_body> parser;
    parser.header_limit(kHeaderBytes);
    parser.body_limit(limits_.body_bytes);
    boost::beast::flat_buffer buffer;
    auto head = step(soon(), [&](auto handler) { wire::async_read_header(socket_, buffer, parser, handler); });
    if (!head) return given_up("answer", limits_.response);
    if (*head) return unreadable(*head);
    const bool is_stream = parser.get().result_int() == 200;
    if (is_stream) parser.body_limit(boost::none);
    // Not eager: an eager parser holds a chunk back until the head of the next one has come.
    parser.eager(false);
    auto& body = parser.get().body();
    while (!parser.is_done()) {
      auto received = step(soon(), [&](auto handler) { wire::async_read_some(socket_, buffer, parser, handler); });
      if (!received) return given_up("say anything", limits_.response);
      if (*received) return unreadable(*received);
      if (!is_stream || body.empty()) continue;
      if (!sink(body)) break;
      body.clear();
    }
    return Response{parser.get().result_int(), is_stream ? std::string() : std::move(body)};
  }

  std::unexpected<Error> unreadable(error_code error) const {
    if (error == wire::error::body_limit)
      return fail(ErrorKind::corrupt, "the answer of {} has more than {} bytes", to_.show(), limits_.body_bytes);
    bool ended = error == wire::error::end_of_stream || error == wire::error::partial_message ||
                 error.category() != make_error_code(wire::error::end_of_stream).category();
    if (ended)
      return fail(ErrorKind::unavailable, "{} ended the connection before its answer was complete: {}", to_.show(),
                  error.message());
    return fail(ErrorKind::corrupt, "the answer of {} is not HTTP: {}", to_.show(), error.message());
  }

  const Endpoint& to_;
  const Limits& limits_;
  std::stop_token stop_;
  asio::io_context io_{1};
  Stream::socket socket_{io_};
};

}  // namespace

namespace {

/// Beast and Asio throw when a descriptor, a thread or memory cannot be had.
template <class Talk>
Result<Response> without_exceptions(const Endpoint& to, Talk talk) {
  try {
    return talk();
  } catch (const std::exception& failure) {
    return fail(ErrorKind::io, "cannot talk to {}: {}", to.show(), failure.what());
  }
}

}  // namespace

Result<Response> send(const Endpoint& to, const Request& request, const Limits& limits, std::stop_token stop) {
  auto message = CKPTD_TRY(written_out(to, request));
  return without_exceptions(to, [&] { return Exchange(to, limits, std::move(stop)).run(message); });
}

Result<Response> follow(const Endpoint& to, const Request& request, const StreamLimits& limits,
                        const std::function<bool(std::string_view)>& sink, std::stop_token stop) {
  auto message = CKPTD_TRY(written_out(to, request));
  const Limits each{limits.connect, limits.silence, limits.body_bytes};
  return without_exceptions(to, [&] { return Exchange(to, each, std::move(stop)).follow(message, limits.until, sink); });
}

}  // namespace ckptd::http
