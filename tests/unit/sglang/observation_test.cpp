// What an SGLang server tells of itself, from servers of different ages and in different states.
#include <catch2/catch.hpp>
#include <unistd.h>

#include "daemon/fleet/sglang/sglang_engine.h"
#include "tests/unit/fleet/scripted_server.h"

using namespace ckptd;
using fleet::Observation;
using testing::Reply;
using testing::ScriptedServer;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);

std::unique_ptr<fleet::Engine> engine_at(const ScriptedServer& server) {
  return fleet::sglang::make_engine(
      {.name = "sglang-0", .kind = "sglang", .endpoint = server.endpoint(), .api_key_file = {}, .admin_key_file = {}});
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

const std::string kModel = R"({"model_path":"/m","weight_version":"7"})";

}  // namespace

TEST_CASE("starting, serving and paused, as far as the server's age allows") {
  const auto [ping, ready, model, state] =
      GENERATE(table<int, int, std::string, Observation::State>({
          {200, 200, "GET /model_info", Observation::State::serving},
          {200, 503, "GET /model_info", Observation::State::paused},
          {503, 503, "GET /model_info", Observation::State::starting},
          {200, 404, "GET /get_model_info", Observation::State::serving},  // an old server: it may as well be paused
      }));
  ScriptedServer server({{"GET /ping", {{ping, ""}}}, {"GET /ready", {{ready, ""}}}, {model, {{200, kModel}}}});
  const auto seen = engine_at(server)->observe(kLong);
  REQUIRE(seen);
  CHECK(seen->state == state);
  CHECK(seen->weight_version == "7");
  CHECK(seen->listener == process_with(::getpid()));
}

TEST_CASE("no observation ever makes the server generate or ask its schedulers") {
  ScriptedServer server({{"GET /ping", {{200, ""}}}, {"GET /ready", {{200, ""}}}, {"GET /model_info", {{200, kModel}}}});
  REQUIRE(engine_at(server)->observe(kLong));
  CHECK(server.requests() == std::vector<std::string>{"GET /ping", "GET /ready", "GET /model_info"});
}

TEST_CASE("a server that is none of SGLang's is refused with a question") {
  ScriptedServer server({{"GET /health", {{200, ""}}}});
  const auto seen = engine_at(server)->observe(kLong);
  REQUIRE_FALSE(seen);
  CHECK(seen.error().kind == ErrorKind::unsupported);
  CHECK(has(seen.error().sentence, "sglang-0"));
  CHECK(has(seen.error().sentence, "GET /ping"));
}

TEST_CASE("describe: sizes, drafts, what it can and what it warns of") {
  ScriptedServer server(
      {{"GET /server_info", {{200, R"({"version":"0.5.23","model_path":"/m","tp_size":4,"pp_size":2,"dp_size":1,"nnodes":2,
          "enable_dp_attention":false,"speculative_algorithm":"eagle3","enable_memory_saver":true,
          "weight_cache_mode":"off","load_format":"dummy","checkpoint_engine_wait_weights_before_ready":true,
          "internal_states":[{}]})"}}},
       {"GET /openapi.json", {{200, R"({"paths":{"/weights_checker":{},"/ping":{}}})"}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK(told->version == "0.5.23");
  CHECK(told->model == "/m");
  CHECK(told->tensor_parallel == 4);
  CHECK(told->pipeline_parallel == 2);
  CHECK(told->data_parallel == 1);
  CHECK(told->nodes == 2);
  CHECK(told->draft_models == 1);
  CHECK(told->can_sleep);
  CHECK(told->can_verify);
  CHECK_FALSE(told->unsuitable);
  REQUIRE(told->warnings.size() == 3);
  CHECK(has(told->warnings[0], "120 s"));
  CHECK(has(told->warnings[0], "SGLANG_WAIT_WEIGHTS_READY_TIMEOUT"));
  CHECK(has(told->warnings[1], "memory-saver"));
  CHECK(has(told->warnings[2], "2 nodes"));
}

TEST_CASE("describe: an old server has other routes, and no checksums") {
  ScriptedServer server({{"GET /get_server_info", {{200, R"({"version":"0.5.4","tp_size":1,"load_format":"dummy"})"}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK(told->version == "0.5.4");
  CHECK_FALSE(told->can_verify);
  CHECK_FALSE(told->can_sleep);
  REQUIRE(told->warnings.size() == 1);
  CHECK(has(told->warnings[0], "random weights"));
}

TEST_CASE("describe: servers that cannot be updated, with what to change") {
  const auto [info, words] = GENERATE(table<std::string, std::string>({
      {R"({"dp_size":2,"enable_dp_attention":false})", "--enable-dp-attention"},
      {R"({"dp_size":8})", "--dp-size 1"},
      {R"({"weight_cache_mode":"attach"})", "--weight-cache-mode off"},
  }));
  ScriptedServer server({{"GET /server_info", {{200, info}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  REQUIRE(told->unsuitable);
  CHECK(told->unsuitable->kind == ErrorKind::unsupported);
  CHECK(has(told->unsuitable->sentence, words));
}

TEST_CASE("describe: data parallelism of the attention alone is no hindrance") {
  ScriptedServer server({{"GET /server_info", {{200, R"({"dp_size":8,"tp_size":8,"enable_dp_attention":true})"}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK_FALSE(told->unsuitable);
  CHECK(told->data_parallel_attention);
}

TEST_CASE("pausing and resuming are one post each") {
  ScriptedServer server({{"POST /pause_generation", {{200, R"({"message":"Generation paused successfully.","status":"ok"})"}}},
                         {"POST /continue_generation", {{200, R"({"status":"ok"})"}}}});
  const auto engine = engine_at(server);
  CHECK(engine->pause(fleet::Pause::none, kLong, {}));
  CHECK(server.requests().empty());
  CHECK(engine->pause(fleet::Pause::in_place, kLong, {}));
  CHECK(server.body_of("POST /pause_generation") == R"({"mode":"in_place"})");
  CHECK(engine->resume(kLong));
  const auto seen = server.seen();
  REQUIRE(seen.size() == 2);
  CHECK(seen[1].body == "{}");
  const auto kept = engine->pause(fleet::Pause::keep, kLong, {});
  REQUIRE_FALSE(kept);
  CHECK(kept.error().kind == ErrorKind::invalid_argument);
  CHECK(server.requests().size() == 2);
}

TEST_CASE("an old server has no pause") {
  ScriptedServer server({});
  CHECK(engine_at(server)->pause(fleet::Pause::abort, kLong, {}).error().kind == ErrorKind::unsupported);
}

TEST_CASE("it cannot be woken, since nothing tells that it sleeps") {
  ScriptedServer server({});
  CHECK(engine_at(server)->wake_weights(kLong).error().kind == ErrorKind::unsupported);
  CHECK(server.requests().empty());
}

TEST_CASE("the label is read back after an update") {
  ScriptedServer server({{"GET /model_info", {{200, kModel}, {200, kModel}, {200, R"({"model_path":"/m"})"}}}});
  const auto engine = engine_at(server);
  CHECK(engine->conclude({.endpoints = {}, .weight_version = "7"}, kLong));
  const auto other = engine->conclude({.endpoints = {}, .weight_version = "8"}, kLong);
  REQUIRE_FALSE(other);
  CHECK(other.error().kind == ErrorKind::peer_failed);
  CHECK(has(other.error().sentence, "weight version 7 and not 8"));
  CHECK(engine->conclude({.endpoints = {}, .weight_version = "8"}, kLong));  // it tells none
  CHECK(engine->conclude({.endpoints = {}, .weight_version = ""}, kLong));
  CHECK(server.requests().size() == 3);
}

TEST_CASE("checksums come by rank") {
  ScriptedServer server({{"POST /weights_checker", {{200, R"({"success":true,"message":"","per_engine_checksum":"e","ranks":[
      {"checksums":{"a":"1","draft.a":"2"},"per_gpu_checksum":"p",
       "parallelism_info":[{"role":"target","tp_rank":0,"tp_size":2,"pp_rank":0,"pp_size":1,"dp_rank":0,"dp_size":1}]},
      {"checksums":{"a":"3"},"per_gpu_checksum":"q",
       "parallelism_info":[{"role":"target","tp_rank":1,"tp_size":2,"pp_rank":1,"pp_size":2,"dp_rank":0,"dp_size":1}]}]})"}}}});
  const auto sums = engine_at(server)->checksums(kLong);
  REQUIRE(sums);
  CHECK(server.body_of("POST /weights_checker") == R"({"action":"checksum"})");
  REQUIRE(sums->size() == 2);
  CHECK((*sums)[0].rank == "tp0");
  CHECK((*sums)[0].by_tensor == std::map<std::string, std::string>{{"a", "1"}, {"draft.a", "2"}});
  CHECK((*sums)[1].rank == "tp1 pp1");
}
