#include "common/http_client.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <future>
#include <mutex>

#include "tests/unit/http_client/raw_peer.h"

using namespace ckptd;
using namespace std::chrono_literals;
using testing::RawPeer;
using testing::TemporaryDirectory;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);  // never reached by a test that passes

http::Limits generous() {
  return {.connect = kLong, .response = kLong, .body_bytes = 1 << 20};
}

bool names(const Error& error, const std::string& culprit) {
  return error.sentence.find(culprit) != error.sentence.npos;
}

}  // namespace

TEST_CASE("an endpoint is parsed and shown") {
  auto [text, host, port, path, shown] = GENERATE(table<std::string, std::string, int, std::string, std::string>({
      {"http://127.0.0.1:30000", "127.0.0.1", 30000, "", "http://127.0.0.1:30000"},
      {"http://node-1.example:1/", "node-1.example", 1, "", "http://node-1.example:1"},
      {"localhost:65535", "localhost", 65535, "", "http://localhost:65535"},
      {"http://[::1]:8080", "::1", 8080, "", "http://[::1]:8080"},
      {"unix:/run/ckptd/control.sock", "", 0, "/run/ckptd/control.sock", "unix:/run/ckptd/control.sock"},
  }));
  auto endpoint = http::Endpoint::parse(text);
  REQUIRE(endpoint);
  CHECK(endpoint->host == host);
  CHECK(endpoint->port == port);
  CHECK(endpoint->unix_path == path);
  CHECK(endpoint->show() == shown);
  CHECK(http::Endpoint::parse(endpoint->show()) == *endpoint);
}

TEST_CASE("what is no endpoint is refused and quoted") {
  auto text =
      GENERATE(as<std::string>{}, "", "localhost", "http://localhost", "http://:80", "http://a:0", "http://a:65536",
               "http://a:80x", "http://a:-1", "https://a:443", "http://a/b:80", "http://u@a:80", "::1:80",
               "http://[::1]", "http://[zz]:80", "http://[]:80", "unix:", "unix:relative", "http://a b:80",
               "http://a:80/path", "ftp://a:80", "unix:/" + std::string(107, 'x'));
  auto endpoint = http::Endpoint::parse(text);
  REQUIRE_FALSE(endpoint);
  CHECK(endpoint.error().kind == ErrorKind::invalid_argument);
  CHECK(names(endpoint.error(), "'" + text + "'"));
}

TEST_CASE("a path of 107 bytes is an endpoint, one of 108 is not, and the refusal has the numbers") {
  CHECK(http::Endpoint::parse("unix:/" + std::string(106, 'x')));
  auto refused = http::Endpoint::parse("unix:/" + std::string(107, 'x'));
  REQUIRE_FALSE(refused);
  CHECK(names(refused.error(), "108"));
  CHECK(names(refused.error(), "107"));
  auto unusable = http::send({.host = {}, .port = 0, .unix_path = "/" + std::string(500, 'x')}, {}, generous());
  REQUIRE_FALSE(unusable);
  CHECK(unusable.error().kind == ErrorKind::invalid_argument);
}

TEST_CASE("percent escapes") {
  CHECK(http::percent_encode("Qwen/Qwen3-8B") == "Qwen%2FQwen3-8B");
  CHECK(http::percent_encode("a b%\xff~._-") == "a%20b%25%FF~._-");
  CHECK(http::percent_decode("Qwen%2fQwen3%2D8B") == std::string("Qwen/Qwen3-8B"));
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  CHECK(http::percent_decode(http::percent_encode(every)) == every);
  for (auto broken : {"%", "%2", "a%zz", "%-1", "%+1", "% 1", "%2%", "100%"}) {
    auto decoded = http::percent_decode(broken);
    REQUIRE_FALSE(decoded);
    CHECK(decoded.error().kind == ErrorKind::invalid_argument);
    CHECK(names(decoded.error(), broken));
  }
}

TEST_CASE("a request travels whole, over TCP and over a Unix socket") {
  TemporaryDirectory directory;
  std::mutex mutex;
  std::string seen;
  auto script = [&](int fd) {
    auto request = testing::read_request(fd);
    std::lock_guard lock(mutex);
    seen = request;
    testing::write_all(fd, testing::answer("201 Created", "{\"a\":1}"));
  };
  auto check = [&](const RawPeer& peer, const std::string& host) {
    http::Request request{
        .method = "PUT", .target = "/v1/x?y=z", .body = "{\"k\":[1,2]}", .headers = {{"Idempotency-Key", "k-1"}}};
    auto response = http::send(peer.endpoint(), request, generous());
    REQUIRE(response);
    CHECK(response->status == 201);
    CHECK(response->body == "{\"a\":1}");
    std::lock_guard lock(mutex);
    CHECK(seen.starts_with("PUT /v1/x?y=z HTTP/1.1\r\n"));
    CHECK(seen.find("Host: " + host + "\r\n") != seen.npos);
    CHECK(seen.find("Content-Type: application/json\r\n") != seen.npos);
    CHECK(seen.find("Idempotency-Key: k-1\r\n") != seen.npos);
    CHECK(seen.ends_with("\r\n\r\n{\"k\":[1,2]}"));
  };
  auto tcp = RawPeer::on_tcp(script);
  check(tcp, fmt::format("127.0.0.1:{}", tcp.endpoint().port));
  auto local = RawPeer::on_unix(directory / "peer.sock", script);
  check(local, "localhost");
}

TEST_CASE("a host name is resolved") {
  auto peer = RawPeer::on_tcp([](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, testing::answer("200 OK", "here"));
  });
  auto endpoint = peer.endpoint();
  endpoint.host = "localhost";
  auto response = http::send(endpoint, {}, generous());
  REQUIRE(response);
  CHECK(response->body == "here");

  auto unknown = http::send({.host = "no-such-host.invalid", .port = 1, .unix_path = {}}, {}, generous());
  REQUIRE_FALSE(unknown);
  CHECK(names(unknown.error(), "no-such-host.invalid"));
}

TEST_CASE("any status is an answer, with or without a length, in chunks or until the end") {
  auto [raw, status, body] = GENERATE(table<std::string, unsigned, std::string>({
      {"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", 503, "no"},
      {"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end"},
      {"HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde"},
  }));
  auto peer = RawPeer::on_tcp([raw = raw](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, raw);
  });
  auto response = http::send(peer.endpoint(), {}, generous());
  REQUIRE(response);
  CHECK(response->status == status);
  CHECK(response->body == body);
}

TEST_CASE("HEAD is answered without a body") {
  auto peer = RawPeer::on_tcp([](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, "HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n");
    testing::wait_for_close(fd);
  });
  auto response = http::send(peer.endpoint(), {.method = "HEAD"}, generous());
  REQUIRE(response);
  CHECK(response->body.empty());
}

TEST_CASE("nobody listens: unavailable, and the endpoint is named") {
  TemporaryDirectory directory;
  auto closed = RawPeer::on_tcp([](int) {}).endpoint();
  for (const auto& endpoint : {closed, http::Endpoint{.host = {}, .port = 0, .unix_path = directory / "none.sock"}}) {
    auto response = http::send(endpoint, {}, generous());
    REQUIRE_FALSE(response);
    CHECK(response.error().kind == ErrorKind::unavailable);
    CHECK(names(response.error(), endpoint.show()));
  }
}

TEST_CASE("a socket whose mode keeps us out: denied") {
  if (::geteuid() == 0) return;  // root passes every mode
  TemporaryDirectory directory;
  auto peer = RawPeer::on_unix(directory / "closed.sock", [](int) {});
  ::chmod((directory / "closed.sock").c_str(), 0);
  auto response = http::send(peer.endpoint(), {}, generous());
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::denied);
}

TEST_CASE("a connection that ends early is unavailable") {
  auto raw = GENERATE(as<std::string>{}, "", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Len",
                      "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
  auto peer = RawPeer::on_tcp([raw](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, raw);
  });
  auto response = http::send(peer.endpoint(), {}, generous());
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::unavailable);
  CHECK(names(response.error(), peer.endpoint().show()));
}

TEST_CASE("what is not HTTP is corrupt") {
  auto raw =
      GENERATE(as<std::string>{}, "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n",
               "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
               "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
               "HTTP/1.1 200 OK\r\nA: " + std::string(200'000, 'x') + "\r\n\r\n", std::string(300, '\0'));
  auto peer = RawPeer::on_tcp([raw](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, raw);
    testing::wait_for_close(fd);
  });
  auto response = http::send(peer.endpoint(), {}, generous());
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::corrupt);
  CHECK(names(response.error(), peer.endpoint().show()));
}

TEST_CASE("a body at the limit is read, one byte more is corrupt, however it is framed") {
  auto limits = generous();
  limits.body_bytes = 1000;
  auto [extra, framing] = GENERATE(
      table<int, std::string>({{0, "length"}, {1, "length"}, {0, "chunk"}, {1, "chunk"}, {0, "end"}, {1, "end"}}));
  std::string body(1000 + extra, 'b');
  std::string raw = framing == "length" ? testing::answer("200 OK", body)
                    : framing == "chunk"
                        ? fmt::format("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                                      body.size(), body)
                        : "HTTP/1.1 200 OK\r\n\r\n" + body;
  auto peer = RawPeer::on_tcp([raw](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, raw);
  });
  auto response = http::send(peer.endpoint(), {}, limits);
  if (extra == 0) {
    REQUIRE(response);
    CHECK(response->body == body);
  } else {
    REQUIRE_FALSE(response);
    CHECK(response.error().kind == ErrorKind::corrupt);
    CHECK(names(response.error(), "1000"));
  }
}

TEST_CASE("a server that refuses before it has read the body is heard") {
  TemporaryDirectory directory;
  auto early = RawPeer::on_unix(directory / "early.sock",
                                [](int fd) { testing::write_all(fd, testing::answer("413 Too Large", "too much")); });
  auto response = http::send(early.endpoint(), {.method = "POST", .body = std::string(8 << 20, 'x')}, generous());
  REQUIRE(response);
  CHECK(response->status == 413);
}

TEST_CASE("a server that does not answer, or drips, is timed out") {
  auto drip = GENERATE(false, true);
  RawPeer* self = nullptr;
  auto peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    while (drip && !self->ending() && ::send(fd, "x", 1, MSG_NOSIGNAL) == 1) std::this_thread::sleep_for(5ms);
    testing::wait_for_close(fd);
  });
  self = &peer;
  auto limits = generous();
  limits.response = 150ms;
  auto response = http::send(peer.endpoint(), {}, limits);
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::timed_out);
  CHECK(names(response.error(), peer.endpoint().show()));
}

TEST_CASE("a connection that nobody accepts is timed out") {
  // The backlog of a Unix socket is full: connect() would block for ever.
  TemporaryDirectory directory;
  auto path = directory / "full.sock";
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(listener.get(), 0) == 0);
  auto limits = generous();
  limits.connect = limits.response = 100ms;
  for (int i = 0; i < 3; ++i) {
    auto response = http::send({.host = {}, .port = 0, .unix_path = path}, {}, limits);
    REQUIRE_FALSE(response);
    bool named = response.error().kind == ErrorKind::timed_out || response.error().kind == ErrorKind::unavailable;
    CHECK(named);
    CHECK(names(response.error(), path));
  }
}

TEST_CASE("a stop ends a waiting request at once, and one that has not begun") {
  std::promise<void> arrived;
  auto peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    arrived.set_value();
    testing::wait_for_close(fd);
  });
  std::stop_source source;
  auto waiting =
      std::async(std::launch::async, [&] { return http::send(peer.endpoint(), {}, generous(), source.get_token()); });
  arrived.get_future().wait();
  source.request_stop();
  REQUIRE(waiting.wait_for(kLong) == std::future_status::ready);
  auto response = waiting.get();
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::cancelled);
  CHECK(names(response.error(), peer.endpoint().show()));

  auto before = peer.accepted();
  auto never = http::send(peer.endpoint(), {}, generous(), source.get_token());
  REQUIRE_FALSE(never);
  CHECK(never.error().kind == ErrorKind::cancelled);
  CHECK(peer.accepted() == before);
}

TEST_CASE("stops race with answers and neither is lost") {
  auto peer = RawPeer::on_tcp([](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, testing::answer("200 OK", "x"));
  });
  for (int round = 0; round < 200; ++round) {
    std::stop_source source;
    std::jthread stopper([&, round] {
      std::this_thread::sleep_for(std::chrono::microseconds(round * 5));
      source.request_stop();
    });
    auto response = http::send(peer.endpoint(), {}, generous(), source.get_token());
    if (response)
      CHECK(response->body == "x");
    else
      CHECK(response.error().kind == ErrorKind::cancelled);
  }
}

TEST_CASE("many threads send at once") {
  TemporaryDirectory directory;
  auto peer = RawPeer::on_unix(directory / "busy.sock", [](int fd) {
    auto request = testing::read_request(fd);
    testing::write_all(fd, testing::answer("200 OK", request.substr(request.find("\r\n\r\n") + 4)));
  });
  std::vector<std::future<bool>> senders;
  for (int i = 0; i < 8; ++i)
    senders.push_back(std::async(std::launch::async, [&, i] {
      for (int round = 0; round < 20; ++round) {
        auto body = fmt::format("{}-{}", i, round);
        auto response = http::send(peer.endpoint(), {.method = "POST", .body = body}, generous());
        if (!response || response->body != body) return false;
      }
      return true;
    }));
  for (auto& sender : senders) CHECK(sender.get());
}

TEST_CASE("a request that would break out of its line is refused") {
  http::Endpoint endpoint{.host = "127.0.0.1", .port = 1, .unix_path = {}};
  auto request = GENERATE(http::Request{.method = "GET /x HTTP/1.1\r\nA:"}, http::Request{.method = ""},
                          http::Request{.target = "no-slash"}, http::Request{.target = "/a b"},
                          http::Request{.target = "/a\r\nX: 1"}, http::Request{.headers = {{"A", "b\r\nC: d"}}},
                          http::Request{.headers = {{"A: b\r\nC", "d"}}}, http::Request{.headers = {{"", "d"}}});
  auto response = http::send(endpoint, request, generous());
  REQUIRE_FALSE(response);
  CHECK(response.error().kind == ErrorKind::invalid_argument);
}

// ---- answers that go on ----

namespace {

constexpr std::string_view kStreamHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

http::StreamLimits patient() {
  return {.connect = kLong, .silence = kLong};
}

}  // namespace

TEST_CASE("a piece of a stream is given on as soon as it is there") {
  std::promise<void> seen;
  RawPeer peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, kStreamHead);
    testing::write_all(fd, "5\r\nfirst\r\n");
    seen.get_future().wait();  // nothing follows before it has arrived
    testing::write_all(fd, "6\r\nse");
    testing::write_all(fd, "cond\r\n0\r\n\r\n");
  });
  std::string got;
  auto response = http::follow(peer.endpoint(), {}, patient(), [&](std::string_view bytes) {
    got += bytes;
    if (got == "first") seen.set_value();
    return true;
  });
  REQUIRE(response);
  CHECK(response->status == 200);
  CHECK(got == "firstsecond");
}

TEST_CASE("a stream ends when the reader has enough, is stopped, or its time is over") {
  RawPeer peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, kStreamHead);
    testing::write_all(fd, "1\r\nx\r\n");
    testing::wait_for_close(fd);
  });
  CHECK(http::follow(peer.endpoint(), {}, patient(), [](std::string_view) { return false; }));
  std::stop_source stop;
  auto stopped = http::follow(
      peer.endpoint(), {}, patient(), [&](std::string_view) { return stop.request_stop(); }, stop.get_token());
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().kind == ErrorKind::cancelled);
  auto until = patient();
  until.until = Deadline::in(50ms);
  auto late = http::follow(peer.endpoint(), {}, until, [](std::string_view) { return true; });
  REQUIRE_FALSE(late);
  CHECK(late.error().kind == ErrorKind::timed_out);
  auto quiet = http::follow(peer.endpoint(), {}, {.connect = kLong, .silence = 50ms}, [](std::string_view) { return true; });
  REQUIRE_FALSE(quiet);
  CHECK(quiet.error().kind == ErrorKind::timed_out);
}

TEST_CASE("a stream that breaks off is an error, and a refusal is an answer with its body") {
  int round = 0;
  RawPeer peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    if (round == 0) testing::write_all(fd, std::string(kStreamHead) + "5\r\nfir");
    if (round == 1) testing::write_all(fd, testing::answer("404 No", "none"));
    if (round == 2) testing::write_all(fd, std::string(kStreamHead) + "zz\r\n");
    if (round == 3) testing::write_all(fd, testing::answer("500 No", std::string(2 << 20, 'x')));
    ++round;
  });
  auto follow = [&](auto sink) { return http::follow(peer.endpoint(), {}, patient(), sink); };
  std::string got;
  auto broken = follow([&](std::string_view bytes) { return got += bytes, true; });
  REQUIRE_FALSE(broken);
  CHECK(broken.error().kind == ErrorKind::unavailable);
  CHECK(got == "fir");
  auto refused = follow([](std::string_view) { return true; });
  REQUIRE(refused);
  CHECK(refused->status == 404);
  CHECK(refused->body == "none");
  for (int i = 0; i < 2; ++i) {
    auto corrupt = follow([](std::string_view) { return true; });
    REQUIRE_FALSE(corrupt);
    CHECK(corrupt.error().kind == ErrorKind::corrupt);
  }
}

TEST_CASE("an endpoint cannot break the lines of a log, and neither can its refusal") {
  for (const std::string text : {"unix:/tmp/x\n2026 I engine prod is serving m@9\x1b[31m", "unix:/tmp/\x7f", "unix:/tmp/\xff",
                                 "http://a\nb:80", "\x1b[31m"}) {
    const auto refused = http::Endpoint::parse(text);
    REQUIRE_FALSE(refused);
    CHECK(std::ranges::none_of(refused.error().sentence, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == 0xff; }));
  }
  CHECK(http::Endpoint::parse("unix:/tmp/caf\u00e9"));
}
