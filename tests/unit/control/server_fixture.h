// A server on a temporary socket, its fake operations, and clients that know HTTP or only bytes.
#pragma once

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "daemon/control/server.h"
#include "tests/unit/control/fake_operations.h"
#include "tests/unit/http_client/raw_peer.h"

namespace ckptd::testing {

inline constexpr auto kLong = std::chrono::milliseconds(60'000);  // never reached by a test that passes

class ServerFixture {
 public:
  explicit ServerFixture(const std::function<void(control::Options&)>& adjust = [](control::Options&) {}) {
    options_.socket = directory_ / "control.sock";
    options_.drain_timeout = std::chrono::seconds(30);  // for answers, however slow a client's or a server's thread is
    adjust(options_);
    auto server = control::Server::start(options_, operations);
    REQUIRE(server);
    server_ = *std::move(server);
  }

  FakeOperations operations;

  std::string socket() const { return options_.socket.native(); }
  http::Endpoint endpoint() const { return {.host = {}, .port = 0, .unix_path = socket()}; }
  control::Server& server() { return *server_; }
  void stop() { server_.reset(); }

  Result<http::Response> send(const http::Request& request) const {
    return http::send(endpoint(), request, {.connect = kLong, .response = kLong, .body_bytes = 1 << 20});
  }

  bool is_alive() const {
    auto response = send({.target = "/healthz"});
    return response && response->status == 200;
  }

  /// A connection that a test writes bytes to.
  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket().copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return fd;
  }

  /// Everything that the server says to these bytes, up to its end of the connection.
  std::string say(std::string_view bytes) const {
    auto fd = connect();
    write_all(fd.get(), bytes);
    return read_until(fd.get(), std::string_view("\0never", 6));
  }

 private:
  TemporaryDirectory directory_;
  control::Options options_;
  std::unique_ptr<control::Server> server_;
};

/// One answer of a connection that stays open: head and body.
inline std::string read_answer(int fd) {
  return read_request(fd);
}

}  // namespace ckptd::testing
