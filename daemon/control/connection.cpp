#include "daemon/control/connection.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>

#include "common/deadline.h"
#include "daemon/control/routes.h"

namespace ckptd::control {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::redirect_error;
using asio::use_awaitable;
using asio::local::stream_protocol;
using boost::system::error_code;
using Stream = beast::basic_stream<stream_protocol>;
using Parser = http::request_parser<http::string_body>;

constexpr std::uint32_t kHeaderBytes = 16 << 10;
constexpr std::size_t kFirstRead = 4 << 10;
constexpr std::chrono::milliseconds kAskAgain{50};

std::string show_peer(stream_protocol::socket& socket) {
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return "unknown peer";
  return fmt::format("uid {} gid {} pid {}", who.uid, who.gid, who.pid);
}

/// Has the peer closed both directions? One that has only ended its requests still reads our answers.
bool is_gone(stream_protocol::socket& socket) {
  pollfd peer{.fd = socket.native_handle(), .events = 0, .revents = 0};
  return ::poll(&peer, 1, 0) == 1 && (peer.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

/// What makes a request unreadable, as the answer to it. Nothing when the connection is simply over.
std::optional<Response> refusal(error_code error, const Options& options) {
  auto refuse = [](unsigned status, std::string sentence) {
    return error_response(Error{ErrorKind::invalid_argument, std::move(sentence)}, "a request", status);
  };
  if (error == http::error::body_limit)
    return refuse(413, fmt::format("the request's body has more than {} bytes", options.body_bytes));
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return refuse(431, fmt::format("the request's head has more than {} bytes", kHeaderBytes));
  bool over = error == http::error::end_of_stream || error == http::error::partial_message ||
              error.category() != make_error_code(http::error::end_of_stream).category();
  if (over) return std::nullopt;
  return refuse(400, fmt::format("the request is not HTTP/1.1: {}", error.message()));
}

/// A request without Beast's types. A key that is there twice is joined by what no key may contain.
Request plain(http::request<http::string_body>&& message) {
  std::string target(message.target());
  auto mark = target.find('?');
  Request request{.method = std::string(message.method_string()), .path = target.substr(0, mark)};
  if (mark != target.npos) request.query = target.substr(mark + 1);
  auto [key, end] = message.equal_range("Idempotency-Key");
  for (bool first = true; key != end; ++key, first = false) {
    auto& value = request.headers["idempotency-key"];
    if (!first) value += '\n';
    value += key->value();
  }
  request.body = std::move(message.body());
  return request;
}

/// One handler on its way through the workers. Who gives up on it sets `abandoned`: if it has not begun, it never will,
/// and if it has, its response is dropped.
struct Errand {
  Errand(asio::io_context& io, std::shared_ptr<const Request> the_request, const Match& the_match)
      : request(std::move(the_request)), match(the_match), ended(io) {}

  const std::shared_ptr<const Request> request;  ///< what `match` refers to
  const Match match;
  std::atomic<bool> abandoned = false;
  asio::steady_timer ended;  ///< expires at the time-out, is cancelled by the response; the site's thread only
  std::optional<Response> response;
};

class ConnectionImpl final : public Connection, public std::enable_shared_from_this<ConnectionImpl> {
 public:
  ConnectionImpl(Site& site, stream_protocol::socket socket, OnEnd on_end)
      : site_(site), stream_(std::move(socket)), nap_(site.io), on_end_(std::move(on_end)) {
    peer_ = show_peer(stream_.socket());
  }

  void begin() {
    asio::co_spawn(site_.io, serve(),
                   [self = shared_from_this()](const std::exception_ptr& failure) { self->ended(failure); });
  }

  void finish() override {
    if (!answering_) return close();
    nap_.cancel();  // a wait for a job ends with the job as it is
  }

  void close() override {
    closed_ = true;
    error_code ignored;
    stream_.socket().close(ignored);
    nap_.cancel();
    if (errand_) errand_->ended.cancel();
  }

 private:
  asio::awaitable<void> serve() {
    bool more = true;
    while (more && !closed_) more = co_await exchange();
  }

  /// One request and its answer; false when there cannot be another one.
  asio::awaitable<bool> exchange() {
    Parser parser;
    parser.header_limit(kHeaderBytes);
    parser.body_limit(site_.options.body_bytes);
    error_code error;
    co_await read(parser, error);
    if (closed_) co_return false;
    if (error) {
      auto response = refusal(error, site_.options);
      if (response) co_await write(std::move(*response), 11, false, false);
      co_return false;
    }
    answering_ = true;
    bool keep = parser.get().keep_alive();
    bool head = parser.get().method() == http::verb::head;
    unsigned version = parser.get().version();
    auto request = std::make_shared<const Request>(plain(parser.release()));
    Response response = co_await answer(request);
    bool written = co_await write(std::move(response), version, keep && !site_.stopping, head);
    answering_ = false;
    co_return written&& keep && !site_.stopping;
  }

  /// The time-out runs anew when the first byte has come: an idle connection is not a slow one. It is one point in time
  /// for the whole of the request, so that sending a byte now and then does not help.
  asio::awaitable<void> read(Parser& parser, error_code& error) {
    stream_.expires_after(site_.options.read_timeout);
    if (buffer_.size() == 0) {
      auto space = buffer_.prepare(kFirstRead);
      std::size_t bytes = co_await stream_.async_read_some(space, redirect_error(use_awaitable, error));
      buffer_.commit(bytes);
      if (error) co_return;
    }
    stream_.expires_after(site_.options.read_timeout);
    co_await http::async_read_header(stream_, buffer_, parser, redirect_error(use_awaitable, error));
    if (error) co_return;
    if (parser.get()[http::field::expect] == "100-continue" && !parser.is_done()) co_await invite_body(error);
    if (error) co_return;
    co_await http::async_read(stream_, buffer_, parser, redirect_error(use_awaitable, error));
  }

  asio::awaitable<void> invite_body(error_code& error) {
    http::response<http::empty_body> invitation(http::status::continue_, 11);
    co_await http::async_write(stream_, invitation, redirect_error(use_awaitable, error));
  }

  asio::awaitable<Response> answer(std::shared_ptr<const Request> request) {
    auto began = Clock::now();
    auto found = find_route(*request);
    if (auto* response = std::get_if<Response>(&found)) {
      log(*request, response->status, began);
      co_return std::move(*response);
    }
    const Match& match = std::get<Match>(found);
    Response response;
    for (;;) {
      response = co_await ask(request, match);
      auto until = began + response.may_wait;
      if (Clock::now() >= until || site_.stopping || closed_ || is_gone(stream_.socket())) break;
      nap_.expires_at(std::min(until, Clock::now() + kAskAgain));
      error_code ignored;
      co_await nap_.async_wait(redirect_error(use_awaitable, ignored));
      if (site_.stopping || closed_) break;
    }
    log(*request, response.status, began);
    co_return response;
  }

  /// Runs the handler on the workers and waits for it, but not longer than its time-out.
  asio::awaitable<Response> ask(const std::shared_ptr<const Request>& request, const Match& match) {
    if (match.route->immediate) co_return run_handler(site_.operations, match);
    auto errand = std::make_shared<Errand>(site_.io, request, match);
    errand_ = errand;
    errand->ended.expires_after(site_.options.handler_timeout);
    asio::post(site_.workers, [errand, &site = site_] { run_errand(errand, site); });
    error_code cancelled;
    co_await errand->ended.async_wait(redirect_error(use_awaitable, cancelled));
    errand_.reset();
    if (errand->response) co_return std::move(*errand->response);
    errand->abandoned = true;
    co_return error_response(given_up(*request), request->show());
  }

  static void run_errand(const std::shared_ptr<Errand>& errand, Site& site) {
    if (errand->abandoned) return;
    auto response = run_handler(site.operations, errand->match);
    asio::post(site.io, [errand, response = std::move(response)]() mutable {
      errand->response = std::move(response);
      errand->ended.cancel();
    });
  }

  Error given_up(const Request& request) const {
    auto seconds = std::chrono::duration<double>(site_.options.handler_timeout).count();
    if (closed_) return Error{ErrorKind::unavailable, "the daemon is shutting down"};
    return Error{ErrorKind::timed_out, fmt::format("{} did not end within {} s; whether it still takes effect is not "
                                                   "known, so look before you repeat it",
                                                   request.show(), seconds)};
  }

  asio::awaitable<bool> write(Response response, unsigned version, bool keep, bool head) {
    http::response<http::string_body> message(http::int_to_status(response.status), version);
    message.result(response.status);
    message.set(http::field::content_type, "application/json");
    for (const auto& [name, value] : response.headers) message.set(name, value);
    if (!head) message.body() = response.body();
    message.keep_alive(keep);
    message.prepare_payload();
    error_code error;
    if (closed_) co_return false;
    stream_.expires_after(site_.options.write_timeout);
    co_await http::async_write(stream_, message, redirect_error(use_awaitable, error));
    if (error) spdlog::debug("control: {}: the answer could not be written: {}", peer_, error.message());
    co_return !error;
  }

  void log(const Request& request, unsigned status, Clock::time_point began) const {
    auto ms = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
    spdlog::debug("control: {}: {} {} in {:.1f} ms", peer_, request.show(), status, ms);
  }

  void ended(const std::exception_ptr& failure) {
    try {
      if (failure) std::rethrow_exception(failure);
    } catch (const std::exception& exception) {
      spdlog::error("control: {}: the connection ended: {}", peer_, exception.what());
    }
    close();
    on_end_(this);
  }

  Site& site_;
  Stream stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer nap_;  ///< between two looks at a job that a client waits for
  OnEnd on_end_;
  std::string peer_;
  std::shared_ptr<Errand> errand_;  ///< the one that is awaited
  bool answering_ = false;
  bool closed_ = false;
};

}  // namespace

std::shared_ptr<Connection> Connection::start(Site& site, stream_protocol::socket socket, OnEnd on_end) {
  auto connection = std::make_shared<ConnectionImpl>(site, std::move(socket), std::move(on_end));
  connection->begin();
  return connection;
}

}  // namespace ckptd::control
