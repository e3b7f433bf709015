// The listener for a monitoring system: three routes, small limits, TCP or a Unix socket.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "daemon/control/routes.h"
#include "daemon/control/server.h"
#include "tests/unit/control/fake_operations.h"
#include "tests/unit/http_client/raw_peer.h"

using namespace ckptd;
using testing::FakeOperations;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);

class MetricsFixture {
 public:
  explicit MetricsFixture(const std::string& listen = "127.0.0.1:0") {
    auto server = control::Server::start_metrics({listen, ""}, operations, [this] {
      ++scrapes;
      return text;
    });
    INFO((server ? "" : server.error().sentence));
    REQUIRE(server);
    server_ = *std::move(server);
  }

  http::Endpoint endpoint() const { return *http::Endpoint::parse(server_->where()); }
  Result<http::Response> send(const http::Request& request) const {
    return http::send(endpoint(), request, {.connect = kLong, .response = kLong});
  }

  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(endpoint().port);
    REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return fd;
  }

  std::string say(std::string_view bytes) const {
    auto fd = connect();
    testing::write_all(fd.get(), bytes);
    ::shutdown(fd.get(), SHUT_WR);
    return testing::read_until(fd.get(), std::string_view("\0never", 6));
  }

  FakeOperations operations;
  std::atomic<int> scrapes = 0;
  std::string text = "# HELP a b\n# TYPE a gauge\na 1\n";

 private:
  std::unique_ptr<control::Server> server_;
};

}  // namespace

TEST_CASE("a scrape over TCP, and whether the daemon lives and is ready") {
  MetricsFixture site;
  CHECK(site.endpoint().port != 0);
  auto scraped = site.say("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(scraped.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(scraped.find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n") != scraped.npos);
  CHECK(scraped.ends_with("\r\n\r\n" + site.text));
  CHECK(site.send({.target = "/healthz"})->status == 200);
  CHECK(site.send({.target = "/readyz"})->status == 200);
  site.operations.ready = false;
  auto waiting = site.send({.target = "/readyz"});
  CHECK(waiting->status == 503);
  CHECK(waiting->body.find("a/b@1 is loading") != std::string::npos);
}

TEST_CASE("nothing of the control API is there, whatever is asked") {
  MetricsFixture site;
  for (const auto& route : control::routes()) {
    if (route.pattern == "/healthz" || route.pattern == "/readyz") continue;
    INFO(route.method << " " << route.pattern);
    auto answer = site.send({.method = std::string(route.method), .target = "/v1/status"});
    CHECK(answer->status == 404);
    std::string target(route.pattern);
    std::replace_if(target.begin(), target.end(), [](char c) { return c == '{' || c == '}'; }, 'x');
    CHECK(site.send({.method = std::string(route.method), .target = target})->status == 404);
  }
  for (const char* method : {"POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"})
    CHECK(site.send({.method = method, .target = "/metrics"})->status == 405);
  CHECK(site.send({.target = "/metrics?x=1"})->status == 400);
  CHECK(site.send({.target = "/metrics/"})->status == 404);
  CHECK(site.operations.calls() == 0);
  CHECK(site.scrapes == 0);
}

TEST_CASE("bodies, large heads and bytes that are no request") {
  MetricsFixture site;
  CHECK(site.say("GET /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").starts_with("HTTP/1.1 413 "));
  CHECK(site.say("GET /metrics HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n").starts_with("HTTP/1.1 431 "));
  CHECK(site.say("GET /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 200 "));
  std::mt19937 random(3);
  const std::string whole = "GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nConnection: close\r\n\r\n";
  for (int round = 0; round < 300; ++round) {
    auto text = whole;
    for (int i = 0; i < 1 + round % 5; ++i) text[random() % text.size()] = static_cast<char>(random());
    auto answer = site.say(text);
    CHECK((answer.empty() || answer.starts_with("HTTP/1.")));
  }
  CHECK(site.send({.target = "/metrics"})->status == 200);
}

TEST_CASE("many scrapes at once") {
  MetricsFixture site;
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        for (int round = 0; round < 20; ++round) {
          auto answer = site.send({.target = "/metrics"});
          if (answer && answer->status == 200 && answer->body == site.text) ++good;
        }
      });
  }
  CHECK(good == 160);
}

TEST_CASE("a scrape that throws is 500, and the next one is answered") {
  FakeOperations operations;
  bool broken = true;
  auto server = *control::Server::start_metrics({"127.0.0.1:0", ""}, operations, [&]() -> std::string {
    if (broken) throw std::bad_alloc();
    return "a 1\n";
  });
  auto ask = [&] { return http::send(*http::Endpoint::parse(server->where()), {.target = "/metrics"}, {})->status; };
  CHECK(ask() == 500);
  broken = false;
  CHECK(ask() == 200);
}

TEST_CASE("on a Unix socket it is as private as the control socket") {
  testing::TemporaryDirectory directory;
  const auto path = directory / "m.sock";
  {
    MetricsFixture site("unix:" + path);
    struct stat file {};
    REQUIRE(::stat(path.c_str(), &file) == 0);
    CHECK((file.st_mode & 07777) == 0660);
    CHECK(site.send({.target = "/metrics"})->body == site.text);
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("IPv6, if this machine has it") {
  FakeOperations operations;
  auto server = control::Server::start_metrics({"[::1]:0", ""}, operations, [] { return std::string("a 1\n"); });
  if (!server) {
    CHECK(server.error().kind == ErrorKind::io);
    return;
  }
  CHECK(http::send(*http::Endpoint::parse((*server)->where()), {.target = "/metrics"}, {})->status == 200);
}

TEST_CASE("where it cannot listen it says why") {
  FakeOperations operations;
  auto start = [&](const std::string& listen) {
    return control::Server::start_metrics({listen, ""}, operations, [] { return std::string(); });
  };
  MetricsFixture there;
  auto taken = start(fmt::format("127.0.0.1:{}", there.endpoint().port));
  REQUIRE_FALSE(taken);
  CHECK(taken.error().kind == ErrorKind::busy);
  for (const char* wrong : {"", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:x",
                            "https://127.0.0.1:1", "nowhere.invalid:0", "unix:", "unix:relative", "1.2.3:0"}) {
    INFO(wrong);
    auto refused = start(wrong);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::invalid_argument);
  }
  CHECK(start("localhost:0"));
}
