#include "daemon/control/server.h"

#include <catch2/catch.hpp>
#include <condition_variable>
#include <future>

#include "tests/unit/control/server_fixture.h"

using namespace ckptd;
using namespace std::chrono_literals;
using testing::job_in;
using testing::kLong;
using testing::ServerFixture;

namespace {

/// Holds handlers back until it is opened; a failed test opens it too, so that nothing hangs.
class Gate {
 public:
  ~Gate() { open(); }
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait_for(lock, kLong, [&] { return open_; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool await(int waiting) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLong, [&] { return waiting_ >= waiting; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
};

nlohmann::json json_of(const Result<http::Response>& response) {
  REQUIRE(response);
  return nlohmann::json::parse(response->body);
}

}  // namespace

TEST_CASE("requests reach operations through the socket") {
  ServerFixture site;
  auto loaded = site.send({.method = "PUT",
                           .target = "/v1/checkpoints/Qwen%2FQwen3-8B/versions/7",
                           .body = R"({"source":{"uri":"file:///m"},"keep":true})",
                           .headers = {{"idempotency-key", "k"}}});
  CHECK(json_of(loaded)["id"] == "load-1");
  CHECK(loaded->status == 202);
  CHECK(loaded->body.ends_with("\n"));
  CHECK(site.operations.last() == "load Qwen/Qwen3-8B@7 file:///m true [k]");

  auto shown = site.send({.target = "/v1/checkpoints/Qwen%2FQwen3-8B/versions/7?tensors=true"});
  CHECK(json_of(shown)["name"] == "Qwen/Qwen3-8B");
  CHECK(site.operations.last() == "version Qwen/Qwen3-8B@7 true");

  site.operations.fail_with(Error{ErrorKind::conflict, "in the way", "", {{"job", "update-3"}}});
  auto refused = site.send({.method = "POST", .target = "/v1/updates", .body = R"({"checkpoint":"n@1"})"});
  CHECK(refused->status == 409);
  CHECK(json_of(refused)["error"]["facts"]["job"] == "update-3");
}

TEST_CASE("answers say what they are") {
  ServerFixture site;
  auto text = site.say("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  CHECK(text.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(text.find("Content-Type: application/json\r\n") != text.npos);
  CHECK(text.ends_with("\r\n\r\n{\"status\":\"ok\"}\n"));
  auto wrong = site.say("POST /healthz HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  CHECK(wrong.starts_with("HTTP/1.1 405 "));
  CHECK(wrong.find("Allow: GET\r\n") != wrong.npos);
  auto head = site.say("HEAD /healthz HTTP/1.1\r\nConnection: close\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 405 "));
  CHECK(head.ends_with("\r\n\r\n"));
}

TEST_CASE("a connection serves one request after the other, also when they come together") {
  ServerFixture site;
  auto fd = site.connect();
  for (int i = 0; i < 3; ++i) {
    testing::write_all(fd.get(), "GET /v1/status HTTP/1.1\r\n\r\n");
    CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 200 OK\r\n"));
  }
  testing::write_all(fd.get(),
                     "GET /healthz HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n");
  CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 200 "));
  CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 404 "));
  CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.0 200 "));
  char byte = 0;
  CHECK(::recv(fd.get(), &byte, 1, 0) == 0);  // HTTP/1.0 without keep-alive
}

TEST_CASE("a client that ends its side first still gets its answer") {
  ServerFixture site;
  auto fd = site.connect();
  testing::write_all(fd.get(), "GET /v1/status HTTP/1.1\r\n\r\n");
  ::shutdown(fd.get(), SHUT_WR);
  CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 200 OK\r\n"));
}

TEST_CASE("bodies arrive in chunks, and after an invitation") {
  ServerFixture site;
  auto chunked = site.say(
      "PATCH /v1/checkpoints/n/versions/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
      "8\r\n{\"kept\":\r\n5\r\ntrue}\r\n0\r\n\r\n");
  CHECK(chunked.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(site.operations.last() == "set_kept n@1 true");

  auto fd = site.connect();
  testing::write_all(
      fd.get(), "PATCH /v1/checkpoints/n/versions/1 HTTP/1.1\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n");
  CHECK(testing::read_until(fd.get(), "\r\n\r\n").starts_with("HTTP/1.1 100 "));
  testing::write_all(fd.get(), "{\"kept\":false}");
  CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 200 "));
  CHECK(site.operations.last() == "set_kept n@1 false");
}

TEST_CASE("a header that is there twice is refused") {
  ServerFixture site;
  auto text = site.say(
      "POST /v1/updates HTTP/1.1\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: 20\r\nConnection: "
      "close\r\n\r\n"
      "{\"checkpoint\":\"n@1\"}");
  CHECK(text.starts_with("HTTP/1.1 400 "));
  CHECK(text.find("Idempotency-Key") != text.npos);
}

TEST_CASE("a wait for a job ends with the job") {
  ServerFixture site;
  auto waiting = std::async(std::launch::async, [&] { return site.send({.target = "/v1/jobs/load-1?wait=30"}); });
  while (site.operations.calls() < 3) std::this_thread::sleep_for(1ms);  // it asks again and again
  CHECK(waiting.wait_for(0ms) == std::future_status::timeout);
  site.operations.set_job(job_in("succeeded"));
  CHECK(json_of(waiting.get())["state"] == "succeeded");
}

TEST_CASE("a wait for a job that goes on ends with the job as it is") {
  ServerFixture site;
  auto began = Clock::now();
  CHECK(json_of(site.send({.target = "/v1/jobs/load-1?wait=1"}))["state"] == "running");
  CHECK(Clock::now() - began >= 1s);
}

TEST_CASE("many waits hold up nobody") {
  ServerFixture site;
  std::vector<UniqueFd> waiting;
  for (int i = 0; i < 50; ++i) {
    waiting.push_back(site.connect());
    testing::write_all(waiting.back().get(), "GET /v1/jobs/load-1?wait=30 HTTP/1.1\r\n\r\n");
  }
  auto other = site.send({.target = "/v1/status"});
  REQUIRE(other);
  CHECK(other->status == 200);
  site.operations.set_job(job_in("failed"));
  for (auto& fd : waiting) CHECK(testing::read_answer(fd.get()).find("\"failed\"") != std::string::npos);
}

TEST_CASE("a client that goes away ends its wait") {
  ServerFixture site;
  {
    auto fd = site.connect();
    testing::write_all(fd.get(), "GET /v1/jobs/load-1?wait=30 HTTP/1.1\r\n\r\n");
    while (site.operations.calls() < 2) std::this_thread::sleep_for(1ms);
  }
  // Once its end is seen nobody asks again: the count comes to rest.
  auto deadline = Deadline::in(kLong);
  int seen = -1;
  while (seen != site.operations.calls() && !deadline.passed()) {
    seen = site.operations.calls();
    std::this_thread::sleep_for(300ms);
  }
  CHECK_FALSE(deadline.passed());
}

TEST_CASE("a handler that takes too long is 504 and its result is dropped") {
  ServerFixture site([](control::Options& options) { options.handler_timeout = 50ms; });
  Gate gate;
  site.operations.on_call = [&] { gate.pass(); };
  auto fd = site.connect();
  testing::write_all(fd.get(), "GET /v1/jobs/slow HTTP/1.1\r\n\r\n");
  auto slow = testing::read_answer(fd.get());
  CHECK(slow.starts_with("HTTP/1.1 504 "));
  CHECK(slow.find("GET /v1/jobs/slow") != slow.npos);
  // The connection lives on, and the late result is not taken for the answer to the next request.
  gate.open();
  testing::write_all(fd.get(), "GET /v1/engines/e HTTP/1.1\r\n\r\n");
  auto next = testing::read_answer(fd.get());
  bool answered = next.find("\"name\":\"e\"") != next.npos || next.starts_with("HTTP/1.1 504 ");
  CHECK(answered);
  CHECK(next.find("load-1") == next.npos);
}

TEST_CASE("a reload is one request, and its refusal an answer") {
  ServerFixture site;
  auto reloaded = site.send({.method = "POST", .target = "/v1/reload"});
  CHECK(json_of(reloaded)["applied"] == nlohmann::json{"log_level"});
  CHECK(json_of(reloaded)["needs_restart"] == nlohmann::json{"store.budget"});
  site.operations.fail_with({ErrorKind::invalid_argument, "line 3 is wrong"});
  CHECK(site.send({.method = "POST", .target = "/v1/reload"})->status == 400);
}

TEST_CASE("the server gives a sign of life while every worker is stuck") {
  Gate gate;
  ServerFixture site;
  site.operations.on_call = [&] { gate.pass(); };
  std::vector<std::future<Result<http::Response>>> stuck;
  for (int i = 0; i < 4; ++i)
    stuck.push_back(std::async(std::launch::async, [&] { return site.send({.target = "/v1/status"}); }));
  REQUIRE(gate.await(4));
  CHECK(site.server().check_alive(Deadline::in(kLong)));
  gate.open();
  for (auto& each : stuck) CHECK(each.get());
}

TEST_CASE("healthz answers while every worker is stuck, and a request that waited in vain never begins") {
  ServerFixture site([](control::Options& options) { options.handler_timeout = 2s; });
  Gate gate;
  site.operations.on_call = [&] { gate.pass(); };
  std::vector<UniqueFd> stuck;
  for (int i = 0; i < 4; ++i) {
    stuck.push_back(site.connect());
    testing::write_all(stuck.back().get(), "GET /v1/status HTTP/1.1\r\n\r\n");
  }
  REQUIRE(gate.await(4));
  CHECK(site.is_alive());
  auto evicted = site.send({.method = "DELETE", .target = "/v1/checkpoints/n/versions/1"});
  REQUIRE(evicted);
  CHECK(evicted->status == 504);
  gate.open();
  for (auto& fd : stuck) CHECK(testing::read_answer(fd.get()).starts_with("HTTP/1.1 "));
  CHECK(site.send({.target = "/v1/jobs"})->status == 200);
  site.stop();
  CHECK(site.operations.calls() == 5);  // four times status, once jobs, no eviction
}

TEST_CASE("a handler that throws is 500 and the next request is served") {
  ServerFixture site;
  site.operations.on_call = [] { throw std::bad_alloc(); };
  CHECK(site.send({.target = "/v1/status"})->status == 500);
  CHECK(site.is_alive());
}

TEST_CASE("a shutdown lets a running handler finish and answers its client") {
  ServerFixture site;
  Gate gate;
  site.operations.on_call = [&] { gate.pass(); };
  auto running = site.connect();
  auto idle = site.connect();
  testing::write_all(running.get(), "GET /v1/status HTTP/1.1\r\n\r\n");
  REQUIRE(gate.await(1));
  auto stopping = std::async(std::launch::async, [&] { site.stop(); });
  char byte = 0;
  CHECK(::recv(idle.get(), &byte, 1, 0) <= 0);  // idle connections end at once
  gate.open();
  auto answer = testing::read_answer(running.get());
  CHECK(answer.starts_with("HTTP/1.1 200 "));
  CHECK(answer.find("Connection: close") != answer.npos);
  stopping.get();
  CHECK_FALSE(std::filesystem::exists(site.socket()));
}

TEST_CASE("a shutdown does not keep the clients of a handler that does not end") {
  ServerFixture site([](control::Options& options) { options.drain_timeout = 1s; });
  Gate gate;
  site.operations.on_call = [&] { gate.pass(); };
  auto running = site.connect();
  testing::write_all(running.get(), "GET /v1/status HTTP/1.1\r\n\r\n");
  REQUIRE(gate.await(1));
  auto stopping = std::async(std::launch::async, [&] { site.stop(); });
  char byte = 0;
  CHECK(::recv(running.get(), &byte, 1, 0) <= 0);
  gate.open();
  stopping.get();
}

TEST_CASE("a shutdown ends waits for jobs with the job as it is") {
  ServerFixture site;
  auto fd = site.connect();
  testing::write_all(fd.get(), "GET /v1/jobs/load-1?wait=30 HTTP/1.1\r\n\r\n");
  while (site.operations.calls() < 2) std::this_thread::sleep_for(1ms);
  site.stop();
  CHECK(testing::read_answer(fd.get()).find("\"running\"") != std::string::npos);
}

TEST_CASE("a second server on the same socket is refused, and the first one serves on") {
  ServerFixture site;
  control::Options options;
  options.socket = site.socket();
  auto second = control::Server::start(options, site.operations);
  REQUIRE_FALSE(second);
  CHECK(second.error().kind == ErrorKind::unavailable);
  CHECK(second.error().sentence.find(site.socket()) != std::string::npos);
  CHECK(site.is_alive());
}

TEST_CASE("servers start and stop while clients come") {
  ServerFixture site;
  std::atomic<bool> over = false;
  std::jthread client([&] {
    while (!over) (void)http::send(site.endpoint(), {.target = "/v1/status"}, {.connect = kLong, .response = kLong});
  });
  site.stop();
  for (int round = 0; round < 20; ++round) {
    control::Options options;
    options.socket = site.socket();
    auto server = control::Server::start(options, site.operations);
    CHECK(server);
  }
  over = true;
}
