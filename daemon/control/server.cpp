#include "daemon/control/server.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <boost/asio/executor_work_guard.hpp>
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
using asio::local::stream_protocol;
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
  HttpServer(const Options& options, operations::Operations& operations, Listener listener)
      : site_(options, operations),
        listener_(std::move(listener)),
        acceptor_(site_.io),
        pause_(site_.io),
        no_room_(no_room(options.connections)) {}

  /// Throws when a descriptor or a thread cannot be had.
  void begin() {
    auto fd = listener_.take_fd();
    acceptor_.assign(stream_protocol(), ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));  // owns what it is given
    accept();
    thread_ = std::thread([this] { serve(); });
  }

  Result<> check_alive(Deadline deadline) override {
    auto served = std::make_shared<std::promise<void>>();
    asio::post(site_.io, [served] { served->set_value(); });
    if (served->get_future().wait_until(deadline.at()) == std::future_status::ready) return {};
    return fail(ErrorKind::timed_out, "the thread that serves the control socket did not come round in time");
  }

  ~HttpServer() override {
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
        welcome(std::move(socket));
        return accept();
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

  Site site_;
  Listener listener_;
  stream_protocol::acceptor acceptor_;
  asio::steady_timer pause_;
  const std::string no_room_;
  std::map<Connection*, std::shared_ptr<Connection>> connections_;  ///< the site's thread only
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(site_.io);
  std::mutex mutex_;
  std::condition_variable drained_;
  bool is_drained_ = false;  ///< under mutex_
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::start(const Options& options, operations::Operations& operations) {
  auto listener = CKPTD_TRY(Listener::create(options.socket, options.group, options.bind_timeout));
  try {
    auto server = std::make_unique<HttpServer>(options, operations, std::move(listener));
    server->begin();
    spdlog::info("control: listening on {}", options.socket.native());
    return std::unique_ptr<Server>(std::move(server));
  } catch (const std::exception& failure) {  // no thread, no descriptor or no memory left
    return fail(ErrorKind::io, "cannot serve {}: {}", options.socket.native(), failure.what());
  }
}

}  // namespace ckptd::control
