#include <unistd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "daemon/fleet/lmdeploy/lmdeploy_engine.h"
#include "tests/unit/fleet/scripted_server.h"

using namespace ckptd;
using fleet::Observation;
using fleet::Pause;
using nlohmann::json;
using testing::Reply;
using testing::ScriptedServer;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);
const char* kStatus = "GET /update_weights_from_ipc";
const char* kUpdate = "POST /update_weights_from_ipc";

std::unique_ptr<fleet::Engine> engine_at(const ScriptedServer& server) {
  return fleet::lmdeploy::make_engine(
      {.name = "lmd-0", .kind = "lmdeploy", .endpoint = server.endpoint(), .api_key_file = {}, .admin_key_file = {}});
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

Reply readiness(bool ready, const char* message = "m", json more = json::object()) {
  json answer{{"ready", ready},         {"message", message},        {"backend", "pytorch"},
              {"device_type", "cuda"},  {"is_sleeping", ready},      {"sleeping_tags", json::array()},
              {"worker_ranks", {0, 1}}, {"device_uuids", {"a", "b"}}, {"checkpoint_engine_version", "0.4.2"}};
  answer.update(more);
  return {200, answer.dump()};
}

}  // namespace

TEST_CASE("serving, asleep and starting, as the health monitor tells; an old server is asked whether it sleeps") {
  const auto [health, sleeping, state] = GENERATE(table<Reply, Reply, Observation::State>({
      {{200, R"({"status":"healthy"})"}, {404, ""}, Observation::State::serving},
      {{200, R"({"status":"sleeping"})"}, {404, ""}, Observation::State::asleep},
      {{503, R"({"status":"initializing"})"}, {404, ""}, Observation::State::starting},
      {{200, ""}, {200, R"({"is_sleeping":true})"}, Observation::State::asleep},
      {{200, ""}, {200, R"({"is_sleeping":false})"}, Observation::State::serving},
      {{200, ""}, {404, ""}, Observation::State::serving},
  }));
  ScriptedServer server({{"GET /health", {health}}, {"GET /is_sleeping", {sleeping}}});
  const auto seen = engine_at(server)->observe(kLong);
  REQUIRE(seen);
  CHECK(seen->state == state);
  CHECK(seen->weight_version.empty());
  CHECK(seen->listener == process_with(::getpid()));
}

TEST_CASE("describe: ranks, and why a server cannot be updated") {
  ScriptedServer server({{kStatus, {readiness(false, "Engine must be sleeping with kv_cache unavailable.")}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK(told->tensor_parallel == 2);
  CHECK(told->ranks == 2);
  CHECK(told->can_sleep);
  CHECK_FALSE(told->can_verify);
  CHECK_FALSE(told->unsuitable);
  CHECK(told->warnings.empty());

  const auto [more, words] = GENERATE(table<json, std::string>({
      {json{{"backend", "turbomind"}}, "--backend pytorch"},
      {json{{"device_type", "ascend"}}, "ascend"},
      {json{{"checkpoint_engine_version", nullptr}}, "import checkpoint-engine"},
  }));
  ScriptedServer other({{kStatus, {readiness(false, "no", more)}}});
  const auto unsuitable = engine_at(other)->describe(kLong);
  REQUIRE(unsuitable);
  REQUIRE(unsuitable->unsuitable);
  CHECK(has(unsuitable->unsuitable->sentence, words));
}

TEST_CASE("describe: data-parallel servers are warned about, older ones have no such route") {
  ScriptedServer server({{kStatus, {readiness(true, "m", {{"dp", 4}, {"tp", 1}})}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK(told->data_parallel == 4);
  CHECK(told->tensor_parallel == 1);
  REQUIRE(told->warnings.size() == 1);
  CHECK(has(told->warnings[0], "data-parallel"));
  ScriptedServer old({});
  CHECK(engine_at(old)->describe(kLong).error().kind == ErrorKind::unsupported);
}

TEST_CASE("an update of a server that is awake is refused before its workers open sessions") {
  ScriptedServer server({{kStatus, {readiness(false, "Engine must be sleeping with kv_cache unavailable.")}},
                         {kUpdate, {{200, R"({"success":true,"message":"done"})"}}}});
  const auto answer = engine_at(server)->call_update({.endpoints = {{"GPU-1f", "ipc:///a"}}, .weight_version = "7"}, kLong, {});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::peer_failed);
  CHECK(has(answer.error().sentence, "abort"));
  CHECK(server.body_of(kUpdate) == "(not asked)");
}

TEST_CASE("an update of a prepared server is one post") {
  ScriptedServer server(
      {{kStatus, {readiness(true)}}, {kUpdate, {{200, R"({"success":true,"message":"Succeeded"})"}}}});
  const auto answer = engine_at(server)->call_update({.endpoints = {{"GPU-1f", "ipc:///a"}}, .weight_version = "7"}, kLong, {});
  REQUIRE(answer);
  CHECK(*answer == "Succeeded");
  CHECK(json::parse(server.body_of(kUpdate)) == json{{"zmq_handles", {{"GPU-1f", "ipc:///a"}}}});
}

TEST_CASE("pausing is sleeping with the weights awake, resuming wakes whatever sleeps") {
  ScriptedServer server({{"POST /sleep?level=1", {{200, ""}}},
                         {"POST /wakeup?tags=weights", {{200, ""}}},
                         {"POST /wakeup?tags=kv_cache", {{200, ""}}}});
  const auto engine = engine_at(server);
  CHECK(engine->pause(Pause::none, kLong, {}));
  CHECK(engine->pause(Pause::abort, kLong, {}));
  CHECK(engine->resume(kLong));
  CHECK(engine->wake_rest(kLong));
  // A pause may have ended between its two calls.
  CHECK(server.requests() == std::vector<std::string>{"POST /sleep?level=1", "POST /wakeup?tags=weights",
                                                      "POST /wakeup?tags=weights", "POST /wakeup?tags=kv_cache",
                                                      "POST /wakeup?tags=kv_cache"});
  for (const auto& one : server.seen()) CHECK(one.body == "{}");  // its posts must be JSON
  CHECK(engine->pause(Pause::retract, kLong, {}).error().kind == ErrorKind::invalid_argument);
}

TEST_CASE("weights are woken only where they sleep, and the server must say that it takes them then") {
  ScriptedServer awake({{kStatus, {readiness(true)}}});
  CHECK(engine_at(awake)->wake_weights(kLong));
  CHECK(awake.requests() == std::vector<std::string>{kStatus});
  ScriptedServer asleep({{kStatus, {readiness(false, "weights"), readiness(true)}},
                         {"POST /wakeup?tags=weights", {{200, ""}}}});
  CHECK(engine_at(asleep)->wake_weights(kLong));
  ScriptedServer stuck({{kStatus, {readiness(false, "weights must be on CUDA")}},
                        {"POST /wakeup?tags=weights", {{200, ""}}}});
  const auto woken = engine_at(stuck)->wake_weights(kLong);
  REQUIRE_FALSE(woken);
  CHECK(has(woken.error().sentence, "must be on CUDA"));
}

TEST_CASE("it has no label and no checksums") {
  ScriptedServer server({});
  const auto engine = engine_at(server);
  CHECK(engine->conclude({.endpoints = {}, .weight_version = ""}, kLong));
  CHECK(engine->conclude({.endpoints = {}, .weight_version = "7"}, kLong).error().kind == ErrorKind::unsupported);
  CHECK(engine->checksums(kLong).error().kind == ErrorKind::unsupported);
  CHECK(server.requests().empty());
}
