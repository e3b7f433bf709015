// A server that speaks bytes, not HTTP: each connection is given to a script, so that a test decides what the other
// side sends, when, and how it ends. For clients' tests.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "common/http_client.h"
#include "common/unique_fd.h"

namespace ckptd::testing {

/// A directory under /tmp that goes away with its content.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char name[] = "/tmp/ckptd-test-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    auto sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
}

/// Everything up to `until`, or up to the end of the connection.
inline std::string read_until(int fd, std::string_view until) {
  std::string text;
  char byte = 0;
  while (text.find(until) == text.npos && ::recv(fd, &byte, 1, 0) == 1) text += byte;
  return text;
}

/// The head of a request and as many bytes of body as it announces.
inline std::string read_request(int fd) {
  auto text = read_until(fd, "\r\n\r\n");
  auto at = text.find("Content-Length: ");
  if (at == text.npos) return text;
  auto whole = text.size() + std::strtoul(text.c_str() + at + 16, nullptr, 10);
  char byte = 0;
  while (text.size() < whole && ::recv(fd, &byte, 1, 0) == 1) text += byte;
  return text;
}

inline std::string answer(std::string_view status, std::string_view body) {
  return fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\n\r\n{}", status, body.size(), body);
}

class RawPeer {
 public:
  using Script = std::function<void(int fd)>;

  static RawPeer on_tcp(Script script) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
    return RawPeer(std::move(fd), {.host = "127.0.0.1", .port = ntohs(address.sin_port), .unix_path = {}},
                   std::move(script));
  }

  static RawPeer on_unix(const std::string& path, Script script) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
    return RawPeer(std::move(fd), {.host = {}, .port = 0, .unix_path = path}, std::move(script));
  }

  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;
  ~RawPeer() {
    ending_ = true;
    thread_.join();
  }

  const http::Endpoint& endpoint() const { return endpoint_; }
  /// For scripts that wait: true once the test is over.
  bool ending() const { return ending_; }
  int accepted() const { return accepted_; }

 private:
  RawPeer(UniqueFd fd, http::Endpoint endpoint, Script script)
      : fd_(std::move(fd)), endpoint_(std::move(endpoint)), script_(std::move(script)) {
    if (::listen(fd_.get(), 16) != 0) std::abort();
    thread_ = std::thread([this] { serve(); });
  }

  void serve() {
    while (!ending_) {
      pollfd readable{.fd = fd_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&readable, 1, 20) <= 0) continue;
      UniqueFd connection(::accept(fd_.get(), nullptr, nullptr));
      ++accepted_;
      if (connection) script_(connection.get());
    }
  }

  UniqueFd fd_;
  http::Endpoint endpoint_;
  Script script_;
  std::atomic<bool> ending_ = false;
  std::atomic<int> accepted_ = 0;
  std::thread thread_;
};

/// Blocks until the other side has closed: for scripts that keep a client waiting.
inline void wait_for_close(int fd) {
  char byte = 0;
  while (::recv(fd, &byte, 1, 0) > 0) {
  }
}

}  // namespace ckptd::testing
