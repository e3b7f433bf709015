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
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>

#include "common/deadline.h"
#include "common/random_name.h"
#include "daemon/control/event_log.h"
#include "daemon/control/routes.h"

namespace ckptd::control {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::redirect_error;
using asio::use_awaitable;
using asio::generic::stream_protocol;
using boost::system::error_code;
using Stream = beast::basic_stream<stream_protocol>;
using Parser = http::request_parser<http::string_body>;

constexpr std::uint32_t kHeaderBytes = 16 << 10;
constexpr std::size_t kFirstRead = 4 << 10;
constexpr std::chrono::milliseconds kAskAgain{50};

std::string show_peer(stream_protocol::socket& socket) {
  error_code error;
  if (socket.local_endpoint(error).protocol().family() != AF_UNIX || error) return "a peer over TCP";
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
  for (const char* name : {"idempotency-key", "last-event-id"}) {
    auto [field, end] = message.equal_range(name);
    for (bool first = true; field != end; ++field, first = false) {
      auto& value = request.headers[name];
      if (!first) value += '\n';
      value += field->value();
    }
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
    nap_.cancel();  // a wait for a job ends with the job as it is, a stream with its last event
  }

  void look_for_events() override {
    if (streaming_) nap_.cancel();
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
    if (response.events) {
      co_await stream_events(*response.events, version);
      co_return false;
    }
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
    auto found = find_route(site_.routes, *request);
    if (auto* response = std::get_if<Response>(&found)) {
      tell(*request, "other", response->status, began);
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
    if (response.events && site_.event_clients >= site_.most_event_clients())
      response = error_response(too_many_streams(), request->show());
    tell(*request, match.route->pattern, response.status, began);
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
    message.set(http::field::content_type, response.content_type);
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

  void tell(const Request& request, std::string_view route, unsigned status, Clock::time_point began) const {
    // What a client makes up must not become a name of ours.
    if (site_.options.on_answer) site_.options.on_answer(route == "other" ? route : request.method, route, status);
    auto ms = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
    spdlog::debug("control: {}: {} {} in {:.1f} ms", peer_, request.show(), status, ms);
  }

  // ---- events ----

  Error too_many_streams() const {
    return Error{ErrorKind::unavailable,
                 fmt::format("{} clients follow events already, which is the limit; try again later, or ask with "
                             "GET /v1/jobs/{{id}}?wait=30",
                             site_.event_clients)};
  }

  /// Until the client leaves, the feed is over or the site stops. The connection ends with it.
  asio::awaitable<void> stream_events(const EventsWanted& wanted, unsigned version) {
    auto feed = wanted.job ? site_.events.follow_job(*wanted.job) : site_.events.follow_all(wanted.last_event_id);
    streaming_ = true;
    count_stream(1);
    watch_for_hang_up();
    bool going = co_await write_head_of_stream(version);
    while (going && !feed->is_over() && !closed_) {
      auto text = feed->next(Clock::now());
      if (text.empty() && site_.stopping) break;
      if (text.empty()) text = co_await wait_for_news();
      if (!text.empty()) going = co_await write_piece(text, version);
    }
    if (going && !closed_ && !feed->is_over()) going = co_await write_piece(farewell(), version);
    if (going && !closed_ && version >= 11) co_await write_bytes(http::make_chunk_last());
    count_stream(-1);
    streaming_ = false;
  }

  void count_stream(int more) {
    site_.event_clients += static_cast<std::size_t>(more);
    if (site_.options.on_event_clients) site_.options.on_event_clients(site_.event_clients);
  }

  /// A client that goes away while there is nothing to tell it must not hold its place until the next heartbeat.
  void watch_for_hang_up() {
    stream_.socket().async_wait(stream_protocol::socket::wait_error, [self = shared_from_this()](error_code error) {
      if (!error && self->streaming_) self->close();
    });
  }

  /// Sleeps until there may be something new; a comment to be sent when nothing came for a heartbeat.
  asio::awaitable<std::string> wait_for_news() {
    bool busy = site_.events.is_something_running();
    auto heartbeat_at = last_written_ + site_.options.heartbeat;
    auto until = busy ? std::min(heartbeat_at, Clock::now() + site_.events.limits().progress_interval) : heartbeat_at;
    nap_.expires_at(until);
    error_code ignored;
    co_await nap_.async_wait(redirect_error(use_awaitable, ignored));
    co_return Clock::now() >= heartbeat_at ? ":\n\n" : "";
  }

  static std::string farewell() {
    return proto::control::to_wire({.id = {},
                                    .name = std::string(proto::control::kClosing),
                                    .data = R"({"sentence":"ckptd ends; jobs that run end with it"})"});
  }

  asio::awaitable<bool> write_head_of_stream(unsigned version) {
    http::response<http::empty_body> head(http::status::ok, version);
    head.set(http::field::content_type, "text/event-stream");
    head.set(http::field::cache_control, "no-store");
    head.keep_alive(false);
    if (version >= 11) head.chunked(true);
    http::response_serializer<http::empty_body> serializer(head);
    error_code error;
    stream_.expires_after(site_.options.write_timeout);
    co_await http::async_write_header(stream_, serializer, redirect_error(use_awaitable, error));
    // Something at once, so that whoever waits for the head behind a proxy gets it.
    co_return !error && co_await write_piece("retry: 1000\n\n", version);
  }

  asio::awaitable<bool> write_piece(std::string_view text, unsigned version) {
    auto bytes = asio::buffer(text);
    last_written_ = Clock::now();
    if (version >= 11) co_return co_await write_bytes(http::make_chunk(bytes));
    co_return co_await write_bytes(bytes);
  }

  template <class Buffers>
  asio::awaitable<bool> write_bytes(Buffers bytes) {
    error_code error;
    stream_.expires_after(site_.options.write_timeout);
    co_await asio::async_write(stream_, bytes, redirect_error(use_awaitable, error));
    if (error) spdlog::debug("control: {}: an event could not be written: {}", peer_, error.message());
    co_return !error;
  }

  void ended(const std::exception_ptr& failure) {
    try {
      if (failure) std::rethrow_exception(failure);
    } catch (const std::exception& exception) {
      spdlog::error("control: {}: the connection ended: {}", peer_, exception.what());
      if (std::exchange(streaming_, false)) count_stream(-1);
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
  bool streaming_ = false;  ///< what is answered is a stream of events
  Clock::time_point last_written_{};
  bool closed_ = false;
};

}  // namespace

Site::Site(Options the_options, operations::Operations& the_operations, std::span<const Route> the_routes)
    : options(std::move(the_options)),
      operations(the_operations),
      routes(the_routes),
      workers(options.workers),
      events(random_name(6), {}) {}

std::shared_ptr<Connection> Connection::start(Site& site, stream_protocol::socket socket, OnEnd on_end) {
  auto connection = std::make_shared<ConnectionImpl>(site, std::move(socket), std::move(on_end));
  connection->begin();
  return connection;
}

}  // namespace ckptd::control
