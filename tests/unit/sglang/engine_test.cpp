#include <catch2/catch.hpp>
#include <future>
#include <nlohmann/json.hpp>

#include "daemon/fleet/sglang/sglang_engine.h"
#include "tests/unit/http_client/raw_peer.h"

using namespace ckptd;
using testing::RawPeer;
using testing::TemporaryDirectory;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);

const fleet::UpdateCall kCall{.endpoints = {{"HOST-0", "ipc:///r/a"}}, .weight_version = "n@7", .flush_cache = true};

std::unique_ptr<fleet::Engine> engine_at(const std::string& name, const http::Endpoint& endpoint) {
  return fleet::sglang::make_engine({.name = name, .kind = "sglang", .endpoint = endpoint, .api_key_file = {},
                                     .admin_key_file = {}});
}

bool names(const Error& error, const std::string& culprit) {
  return error.sentence.find(culprit) != std::string::npos;
}

}  // namespace

TEST_CASE("an update is one POST, over TCP and over a Unix socket") {
  TemporaryDirectory directory;
  std::promise<std::string> seen;
  auto script = [&](int fd) {
    seen.set_value(testing::read_request(fd));
    testing::write_all(fd, testing::answer("200 OK", R"({"success":true,"message":"done"})"));
  };
  auto tcp = GENERATE(true, false);
  auto peer = tcp ? RawPeer::on_tcp(script) : RawPeer::on_unix(directory / "engine.sock", script);
  auto engine = engine_at("sglang-0", peer.endpoint());
  auto answer = engine->call_update(kCall, kLong, {});
  REQUIRE(answer);
  CHECK(*answer == "done");
  auto request = seen.get_future().get();
  CHECK(request.starts_with("POST /update_weights_from_ipc HTTP/1.1\r\n"));
  CHECK(request.find("application/json") != std::string::npos);
  auto body = nlohmann::json::parse(request.substr(request.find("\r\n\r\n") + 4));
  CHECK(body["zmq_handles"]["HOST-0"] == "ipc:///r/a");
  CHECK(body["weight_version"] == "n@7");
}

TEST_CASE("a refusal names the engine and has its words") {
  auto peer = RawPeer::on_tcp([](int fd) {
    testing::read_request(fd);
    testing::write_all(
        fd, testing::answer("400 Bad Request", R"({"success":false,"message":"Device UUID HOST-9 not found"})"));
  });
  auto answer = engine_at("sglang-0", peer.endpoint())->call_update(kCall, kLong, {});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::peer_failed);
  CHECK(names(answer.error(), "sglang-0"));
  CHECK(names(answer.error(), "HOST-9"));
}

TEST_CASE("an engine that is not there, breaks off, talks nonsense or too much") {
  auto [raw, kind] = GENERATE(table<std::string, ErrorKind>({
      {"", ErrorKind::unavailable},
      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":true", ErrorKind::unavailable},
      {"hello?\r\n\r\n", ErrorKind::peer_failed},
      {"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", ErrorKind::peer_failed},
  }));
  auto peer = RawPeer::on_tcp([raw = raw](int fd) {
    testing::read_request(fd);
    testing::write_all(fd, raw);
  });
  auto answer = engine_at("sglang-0", peer.endpoint())->call_update(kCall, kLong, {});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == kind);
  CHECK(names(answer.error(), "sglang-0"));

  http::Endpoint nobody{.host = {}, .port = 0, .unix_path = "/tmp/ckptd-test-nobody-listens-here"};
  auto absent = engine_at("sglang-1", nobody);
  CHECK(absent->call_update(kCall, kLong, {}).error().kind == ErrorKind::unavailable);
  auto ping = absent->observe(kLong);
  REQUIRE_FALSE(ping);
  CHECK(ping.error().kind == ErrorKind::unavailable);
  CHECK(names(ping.error(), "sglang-1"));
}

TEST_CASE("an update that is not answered ends at its time-out or at a stop") {
  std::promise<void> arrived;
  std::atomic<int> requests = 0;
  auto peer = RawPeer::on_tcp([&](int fd) {
    testing::read_request(fd);
    if (++requests == 2) arrived.set_value();
    testing::wait_for_close(fd);
  });
  auto engine = engine_at("sglang-0", peer.endpoint());
  CHECK(engine->call_update(kCall, std::chrono::milliseconds(100), {}).error().kind == ErrorKind::timed_out);

  std::stop_source source;
  auto waiting = std::async(std::launch::async, [&] { return engine->call_update(kCall, kLong, source.get_token()); });
  arrived.get_future().wait();
  source.request_stop();
  auto answer = waiting.get();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::cancelled);
}

