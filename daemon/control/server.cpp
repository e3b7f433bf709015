#include "daemon/control/server.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "daemon/control/connection.h"
#include "daemon/control/listener.h"
#include "daemon/control/routes.h"

namespace ckptd::control {
namespace {

namespace asio = boost::asio;
using asio::generic::stream_protocol;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptAgain{100};

/// The whole answer to a client for whom there is no room, as bytes: it is sent without reading what was asked.
std::string no_room(std::size_t connections) {
  namespace http = boost::beast::http;
  auto sentence = fmt::format("{} clients are connected already, which is the limit; try again later", connections);
  auto response = error_response(Error{ErrorKind::unavailable, std::move(sentence)}, "a connection");
  http::response<http::string_body> message(http::int_to_status(response.status), 11);
  message.set(http::field::content_type, "application/json");
  message.body() = response.body();
  message.keep_alive(false);
  message.prepare_payload();
  std::ostringstream text;
  text << message;
  return text.str();
}

class HttpServer final : public Server {
 public:
  HttpServer(const Options& options, operations::Operations& operations, std::vector<Route> routes, Listener listener)
      : routes_(std::move(routes)),
        site_(options, operations, routes_),
        listener_(std::move(listener)),
        where_(listener_.endpoint().show()),
        acceptor_(site_.io),
        pause_(site_.io),
        no_room_(no_room(options.connections)) {}

  /// Throws when a descriptor or a thread cannot be had. A server whose streams tell what happens follows it first.
  void begin() {
    auto fd = listener_.take_fd();
    acceptor_.assign(stream_protocol(listener_.family(), 0), ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));  // owns it
    accept();
    thread_ = std::thread([this] { serve(); });
  }

  Result<> check_alive(Deadline deadline) override {
    auto served = std::make_shared<std::promise<void>>();
    asio::post(site_.io, [served] { served->set_value(); });
    if (served->get_future().wait_until(deadline.at()) == std::future_status::ready) return {};
    return fail(ErrorKind::timed_out, "the thread that serves the control socket did not come round in time");
  }

  /// Has streams of events to tell.
  void follow(operations::Operations& operations) {
    site_.events.on_news([this] { tell_streams(); });
    happenings_ = operations.subscribe([this](const api::Event& event) { site_.events.add(event); });
  }

  const std::string& where() const override { return where_; }

  ~HttpServer() override {
    happenings_.reset();
    if (!thread_.joinable()) return;
    listener_.remove_file();
    asio::post(site_.io, [this] { finish_all(); });
    {
      std::unique_lock lock(mutex_);
      drained_.wait_for(lock, site_.options.drain_timeout, [&] { return is_drained_; });
    }
    asio::post(site_.io, [this] { close_all(); });
    // Handlers that have begun end by themselves, as Operations promises; those that have not never begin.
    site_.workers.stop();
    site_.workers.join();
    work_.reset();
    thread_.join();
  }

 private:
  void serve() {
    for (;;) {
      try {
        site_.io.run();
        return;
      } catch (const std::exception& failure) {  // out of memory, say: one event is lost, the daemon is not
        spdlog::error("control: {}", failure.what());
      }
    }
  }

  void accept() {
    acceptor_.async_accept([this](error_code error, stream_protocol::socket socket) {
      if (site_.stopping) return;
      if (!error) {
        accept();  // first: should there be no memory to welcome this one, others still come in
        return welcome(std::move(socket));
      }
      if (error == asio::error::connection_aborted) return accept();
      spdlog::warn("control: cannot accept a connection: {}", error.message());
      pause_.expires_after(kAcceptAgain);  // descriptors that are used up do not come back at once
      pause_.async_wait([this](error_code cancelled) {
        if (!cancelled && !site_.stopping) accept();
      });
    });
  }

  void welcome(stream_protocol::socket socket) {
    ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
    if (connections_.size() >= site_.options.connections) return send_away(std::move(socket));
    auto connection = Connection::start(site_, std::move(socket), [this](Connection* ended) { forget(ended); });
    auto* key = connection.get();
    connections_.emplace(key, std::move(connection));
  }

  void send_away(stream_protocol::socket socket) const {
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(no_room_), ignored);  // fits an empty socket buffer
    socket.shutdown(stream_protocol::socket::shutdown_send, ignored);
  }

  void forget(Connection* ended) {
    connections_.erase(ended);
    if (site_.stopping && connections_.empty()) announce_drained();
  }

  void announce_drained() {
    std::lock_guard lock(mutex_);
    is_drained_ = true;
    drained_.notify_all();
  }

  /// Any thread. One message on its way is enough for all the news until it arrives.
  void tell_streams() {
    if (streams_will_look_.exchange(true)) return;
    asio::post(site_.io, [this] {
      streams_will_look_ = false;
      for (auto& [key, connection] : connections_) connection->look_for_events();
    });
  }

  void finish_all() {
    site_.stopping = true;
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    for (auto& [key, connection] : connections_) connection->finish();
    if (connections_.empty()) announce_drained();
  }

  void close_all() {
    for (auto& [key, connection] : connections_) connection->close();
  }

  const std::vector<Route> routes_;
  Site site_;
  Listener listener_;
  const std::string where_;
  asio::basic_socket_acceptor<stream_protocol> acceptor_;
  asio::steady_timer pause_;
  const std::string no_room_;
  std::map<Connection*, std::shared_ptr<Connection>> connections_;  ///< the site's thread only
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(site_.io);
  std::mutex mutex_;
  std::condition_variable drained_;
  bool is_drained_ = false;  ///< under mutex_
  std::atomic<bool> streams_will_look_ = false;
  Subscription happenings_;
  std::thread thread_;
};

Result<std::unique_ptr<HttpServer>> serve(const Options& options, operations::Operations& operations,
                                          std::vector<Route> routes, Listener listener, bool has_events) {
  const auto where = listener.endpoint().show();
  try {
    auto server = std::make_unique<HttpServer>(options, operations, std::move(routes), std::move(listener));
    if (has_events) server->follow(operations);
    server->begin();
    return server;
  } catch (const std::exception& failure) {  // no thread, no descriptor or no memory left
    return fail(ErrorKind::io, "cannot serve {}: {}", where, failure.what());
  }
}

/// A scrape is small and quick, or there is something wrong with who asks.
Options metrics_limits() {
  using std::chrono::seconds;
  Options options;
  options.body_bytes = 0;
  options.read_timeout = seconds(5);
  options.handler_timeout = seconds(10);
  options.write_timeout = seconds(10);
  options.connections = 32;
  options.workers = 1;
  return options;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(const Options& options, operations::Operations& operations) {
  auto listener = CKPTD_TRY(Listener::create(options.socket, options.group, options.bind_timeout));
  const auto table = routes();
  auto server = CKPTD_TRY(serve(options, operations, {table.begin(), table.end()}, std::move(listener), true));
  spdlog::info("control: listening on {}", options.socket.native());
  return std::unique_ptr<Server>(std::move(server));
}

Result<std::unique_ptr<Server>> Server::start_metrics(const MetricsOptions& options,
                                                      operations::Operations& operations,
                                                      std::function<std::string()> text) {
  const auto endpoint = CKPTD_TRY(http::Endpoint::parse(options.listen, 0));
  auto listener = CKPTD_TRY(endpoint.unix_path.empty() ? Listener::create(endpoint)
                                                       : Listener::create(endpoint.unix_path, options.group));
  const bool from_outside = listener.is_reachable_from_outside();
  auto server =
      CKPTD_TRY(serve(metrics_limits(), operations, metrics_routes(std::move(text)), std::move(listener), false));
  spdlog::info("metrics: listening on {}/metrics", server->where());
  if (from_outside)
    spdlog::warn("metrics: whoever reaches {} can read the names of checkpoints and engines; 127.0.0.1 or a Unix socket "
                 "keeps them on this machine",
                 server->where());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace ckptd::control
