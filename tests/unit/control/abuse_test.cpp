// Clients that do what no client should. Every test ends with a server that still serves.
#include <catch2/catch.hpp>
#include <random>

#include "tests/unit/control/server_fixture.h"

using namespace ckptd;
using namespace std::chrono_literals;
using testing::kLong;
using testing::ServerFixture;
namespace api = proto::control;

TEST_CASE("garbage is 400 or the end of the connection") {
  ServerFixture site;
  for (const std::string& garbage :
       {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11), std::string("hello?\r\n\r\n"),
        std::string(64, '\0'), std::string("GET\r\n\r\n"), std::string("GET / HTTP/3.0\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nno colon\r\n\r\n"), std::string("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n"),
        std::string("POST /v1/updates HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        std::string("POST /v1/updates HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}) {
    auto answer = site.say(garbage);
    INFO(garbage);
    CHECK(answer.starts_with("HTTP/1.1 400 "));
    CHECK(answer.find("\"error\"") != answer.npos);
    CHECK(site.is_alive());
  }
  CHECK(site.operations.calls() == 0);
}

TEST_CASE("random bytes and damaged requests") {
  ServerFixture site;
  std::mt19937 random(7);
  const std::string whole =
      "PUT /v1/checkpoints/n/versions/1?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 28\r\nConnection: close\r\n\r\n"
      "{\"source\":{\"uri\":\"file:///\"}}";
  for (int round = 0; round < 300; ++round) {
    auto text = whole;
    for (int i = 0; i < 1 + round % 5; ++i) text[random() % text.size()] = static_cast<char>(random());
    auto fd = site.connect();
    testing::write_all(fd.get(), text);
    ::shutdown(fd.get(), SHUT_WR);
    auto answer = testing::read_until(fd.get(), std::string_view("\0never", 6));
    bool sensible = answer.empty() || answer.starts_with("HTTP/1.");
    CHECK(sensible);
  }
  CHECK(site.is_alive());
}

TEST_CASE("a request that stops anywhere ends its connection and nothing else") {
  ServerFixture site;
  const std::string whole = "PATCH /v1/checkpoints/n/versions/1 HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"kept\":true}";
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    auto fd = site.connect();
    testing::write_all(fd.get(), whole.substr(0, bytes));
    ::shutdown(fd.get(), SHUT_WR);
    CHECK(testing::read_until(fd.get(), std::string_view("\0never", 6)).empty());
  }
  CHECK(site.operations.calls() == 0);
  CHECK(site.is_alive());
}

TEST_CASE("a head that is too large is 431, a body that is too large is 413 with the limit") {
  ServerFixture site([](control::Options& options) { options.body_bytes = 1000; });
  auto head = site.say("GET /healthz HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 431 "));
  auto target = site.say("GET /" + std::string(100'000, 'x') + " HTTP/1.1\r\n\r\n");
  CHECK(target.starts_with("HTTP/1.1 431 "));

  std::string body(1001, ' ');
  auto announced = site.say("POST /v1/updates HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  auto lying = site.say("POST /v1/updates HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n");
  auto chunked =
      site.say("POST /v1/updates HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + body + "\r\n0\r\n\r\n");
  for (const auto& answer : {announced, lying, chunked}) {
    CHECK(answer.starts_with("HTTP/1.1 413 "));
    CHECK(answer.find("1000") != answer.npos);
  }
  auto response = site.send({.method = "POST", .target = "/v1/updates", .body = std::string(3 << 20, ' ')});
  REQUIRE(response);
  CHECK(response->status == 413);
  CHECK(site.send({.method = "POST", .target = "/v1/updates", .body = std::string(1000, ' ')})->status == 400);
  CHECK(site.operations.calls() == 0);
}

TEST_CASE("a slow sender is cut off, however steadily it drips") {
  ServerFixture site([](control::Options& options) { options.read_timeout = 200ms; });
  auto fd = site.connect();
  testing::write_all(fd.get(), "GET /healthz HTTP/1.1\r\nX: ");
  auto deadline = Deadline::in(kLong);
  while (::send(fd.get(), "x", 1, MSG_NOSIGNAL) == 1 && !deadline.passed()) std::this_thread::sleep_for(10ms);
  CHECK_FALSE(deadline.passed());
  CHECK(site.is_alive());
}

TEST_CASE("a connection that says nothing ends after a while") {
  ServerFixture site([](control::Options& options) { options.read_timeout = 50ms; });
  CHECK(site.say("").empty());
}

TEST_CASE("a client that does not read its answers is cut off") {
  ServerFixture site([](control::Options& options) { options.write_timeout = 100ms; });
  api::Job large = testing::job_in("failed");
  large.stage = std::string(4 << 20, 's');
  site.operations.set_job(large);
  auto fd = site.connect();
  testing::write_all(fd.get(), "GET /v1/jobs/j HTTP/1.1\r\n\r\n");
  pollfd peer{.fd = fd.get(), .events = 0, .revents = 0};
  CHECK(::poll(&peer, 1, static_cast<int>(kLong.count())) == 1);  // the server has closed
  CHECK(site.is_alive());
}

TEST_CASE("a client too many is told so at once, and there is room again when others leave") {
  ServerFixture site([](control::Options& options) { options.connections = 20; });
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(site.connect());
    testing::write_all(clients.back().get(), "GET /healthz HTTP/1.1\r\n\r\n");
    CHECK(testing::read_answer(clients.back().get()).starts_with("HTTP/1.1 200 "));
  }
  auto refused = site.say("");
  CHECK(refused.starts_with("HTTP/1.1 503 "));
  CHECK(refused.find("20 clients") != refused.npos);
  auto through_client = site.send({.method = "POST", .target = "/v1/updates", .body = std::string(1000, 'x')});
  REQUIRE(through_client);
  CHECK(through_client->status == 503);
  clients.clear();
  auto deadline = Deadline::in(kLong);
  while (!site.is_alive() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  CHECK_FALSE(deadline.passed());
}

TEST_CASE("300 clients at once: each is answered or refused") {
  ServerFixture site;
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 300; ++i) {
    clients.push_back(site.connect());
    testing::write_all(clients.back().get(), "GET /v1/status HTTP/1.1\r\n\r\n");
  }
  int served = 0, refused = 0;
  for (auto& client : clients) {
    auto answer = testing::read_answer(client.get());
    served += answer.starts_with("HTTP/1.1 200 ") ? 1 : 0;
    refused += answer.starts_with("HTTP/1.1 503 ") ? 1 : 0;
  }
  CHECK(served == 256);
  CHECK(refused == 44);
}

TEST_CASE("clients that vanish in the middle of everything") {
  ServerFixture site;
  for (int round = 0; round < 200; ++round) {
    auto fd = site.connect();
    if (round % 4 > 0) testing::write_all(fd.get(), "GET /v1/status HTTP/1.1\r\n");
    if (round % 4 > 1) testing::write_all(fd.get(), "\r\n");
    if (round % 4 > 2) testing::write_all(fd.get(), "GET /v1/jobs/j?wait=5 HTTP/1.1\r\n\r\n");
  }
  CHECK(site.is_alive());
}
