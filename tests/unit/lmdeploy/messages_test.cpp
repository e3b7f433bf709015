#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "proto/lmdeploy/update_weights.h"

using namespace ckptd;
using nlohmann::json;
using proto::answer::Key;
namespace lmdeploy = proto::lmdeploy;

TEST_CASE("the request has the endpoints and nothing else") {
  CHECK(json::parse(lmdeploy::update_request_body({{"GPU-1f", "ipc:///r/a"}})) ==
        json{{"zmq_handles", {{"GPU-1f", "ipc:///r/a"}}}});
  CHECK(json::parse(lmdeploy::update_request_body({})) == json{{"zmq_handles", json::object()}});
}

TEST_CASE("success is a 200 that says so; everything else is an error with the server's words") {
  CHECK(lmdeploy::read_update_answer(200, R"({"success":true,"message":"Succeeded"})", Key::none) == "Succeeded");
  const auto [status, body, kind, words] = GENERATE(table<unsigned, std::string, ErrorKind, std::string>({
      {200, R"({"success":false,"message":"rank 1: no"})", ErrorKind::peer_failed, "rank 1"},
      {200, R"({"success":"true"})", ErrorKind::peer_failed, "failure"},
      {200, "null", ErrorKind::peer_failed, "LMDeploy"},
      {200, "", ErrorKind::peer_failed, "LMDeploy"},
      {400, R"({"success":false,"message":"Failed to update weights from checkpoint-engine IPC: x"})",
       ErrorKind::peer_failed, "checkpoint-engine IPC: x"},
      {400, R"({"detail":{"error":{"message":"bad body"}}})", ErrorKind::peer_failed, "bad body"},
      {422, R"({"detail":["Unsupported Media Type: Only 'application/json' is allowed"]})", ErrorKind::peer_failed,
       "Unsupported Media Type"},
      {401, R"({"error":"Unauthorized"})", ErrorKind::denied, "--api-key-file"},
      {404, R"({"detail":"Not Found"})", ErrorKind::unsupported, "--backend pytorch"},
      {501, R"({"message":"require backend=\"pytorch\", got 'turbomind'.","type":"invalid_request_error","code":501})",
       ErrorKind::unsupported, "turbomind"},
      {500, "Internal Server Error", ErrorKind::peer_failed, "Internal"},
  }));
  INFO(status << " " << body);
  const auto answer = lmdeploy::read_update_answer(status, body, Key::none);
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == kind);
  CHECK((answer.error().sentence + answer.error().vendor).find(words) != std::string::npos);
}

TEST_CASE("readiness as the server tells it") {
  const auto told = lmdeploy::read_readiness(
      200, R"({"ready":true,"message":"checkpoint-engine IPC receiver is ready.","backend":"pytorch","device_type":"cuda",
      "checkpoint_engine_version":"0.4.2","is_sleeping":true,"sleeping_tags":["kv_cache"],
      "device_uuids":["GPU-1f","GPU-2e"],"worker_ranks":[0,1],"tp":2,"dp":4})", Key::none);
  REQUIRE(told);
  CHECK(told->ready);
  CHECK(told->backend == "pytorch");
  CHECK(told->device == "cuda");
  CHECK(told->checkpoint_engine == "0.4.2");
  CHECK(told->sleeping);
  CHECK(told->asleep == std::vector<std::string>{"kv_cache"});
  CHECK(told->device_uuids.size() == 2);
  CHECK(told->tensor_parallel == 2);
  CHECK(told->data_parallel == 4);
  const auto bare = lmdeploy::read_readiness(
      200, R"({"ready":false,"message":"no","backend":null,"checkpoint_engine_version":null,"device_uuids":null})",
      Key::none);
  REQUIRE(bare);
  CHECK_FALSE(bare->ready);
  CHECK(bare->checkpoint_engine.empty());
  CHECK(bare->tensor_parallel == 0);
  CHECK(lmdeploy::read_readiness(405, R"({"detail":"Method Not Allowed"})", Key::none).error().kind ==
        ErrorKind::unsupported);
  CHECK(lmdeploy::read_readiness(200, "{}", Key::none).error().kind == ErrorKind::peer_failed);
}

TEST_CASE("health of servers of different ages") {
  using lmdeploy::Health;
  const auto [status, body, health] = GENERATE(table<unsigned, std::string, Health>({
      {200, R"({"status":"healthy","message":"ok"})", Health::healthy},
      {200, R"({"status":"sleeping","message":"Engine is sleeping."})", Health::sleeping},
      {503, R"({"status":"initializing","message":"Engine health monitor is starting."})", Health::starting},
      {503, R"({"status":"unhealthy","message":"x"})", Health::starting},
      {503, "", Health::starting},
      {200, "", Health::unknown},
      {200, R"({"status":"odd"})", Health::unknown},
  }));
  INFO(status << " " << body);
  CHECK(lmdeploy::read_health(status, body) == health);
  CHECK(lmdeploy::read_health(404, "").error().kind == ErrorKind::unsupported);
}

TEST_CASE("sleeping is told as a truth or not at all") {
  CHECK(lmdeploy::read_sleeping(200, R"({"is_sleeping":true})", Key::none) == true);
  CHECK(lmdeploy::read_sleeping(200, R"({"is_sleeping":false})", Key::none) == false);
  CHECK(lmdeploy::read_sleeping(200, "{}", Key::none).error().kind == ErrorKind::peer_failed);
  CHECK(lmdeploy::read_done("POST /sleep", 200, "", Key::none));
  CHECK(lmdeploy::read_done("POST /sleep", 400, R"({"message":"level"})", Key::none).error().vendor == "level");
}
