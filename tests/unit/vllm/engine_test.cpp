#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "daemon/fleet/vllm/vllm_engine.h"
#include "tests/unit/fleet/scripted_server.h"

using namespace ckptd;
using fleet::Observation;
using fleet::Pause;
using nlohmann::json;
using testing::Reply;
using testing::ScriptedServer;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);

std::unique_ptr<fleet::Engine> engine_at(const ScriptedServer& server, const std::string& api_key_file = {}) {
  return fleet::vllm::make_engine({.name = "vllm-0",
                                   .kind = "vllm",
                                   .endpoint = server.endpoint(),
                                   .api_key_file = api_key_file,
                                   .admin_key_file = {}});
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

Reply truth(const char* name, bool value) { return {200, json{{name, value}}.dump()}; }

const char* kAwake = "vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 1.0\n";
const char* kAsleep = "vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0.0\n";

}  // namespace

TEST_CASE("a server without development mode serves, as far as anybody can tell") {
  ScriptedServer server({{"GET /health", {{200, ""}}}});
  const auto seen = engine_at(server)->observe(kLong);
  REQUIRE(seen);
  CHECK(seen->state == Observation::State::serving);
  CHECK(seen->weight_version.empty());
  CHECK(seen->listener == process_with(::getpid()));
  CHECK(server.requests() == std::vector<std::string>{"GET /health", "GET /is_sleeping", "GET /weight_info"});
}

TEST_CASE("starting, serving, paused and asleep: the scheduler of a paused server says that it sleeps, its metrics do not") {
  const auto [health, sleeping, paused, metrics, state] =
      GENERATE(table<int, bool, bool, std::string, Observation::State>({
          {503, false, false, "", Observation::State::starting},
          {200, false, false, kAwake, Observation::State::serving},
          {200, false, true, kAwake, Observation::State::paused},
          {200, true, true, kAwake, Observation::State::paused},
          {200, true, true, kAsleep, Observation::State::asleep},
          {200, true, false, kAwake, Observation::State::asleep},
          {200, true, true, "", Observation::State::asleep},  // the safe mistake: nothing is pushed before it is woken
      }));
  ScriptedServer server({{"GET /health", {{health, ""}}},
                         {"GET /is_sleeping", {truth("is_sleeping", sleeping)}},
                         {"GET /is_paused", {truth("is_paused", paused)}},
                         {"GET /metrics", {{200, metrics}}},
                         {"GET /weight_info", {{200, R"({"weight_version":"7"})"}}}});
  const auto seen = engine_at(server)->observe(kLong);
  REQUIRE(seen);
  CHECK(seen->state == state);
  CHECK(seen->weight_version == "7");
}

TEST_CASE("describe: what the server was started with") {
  ScriptedServer server(
      {{"GET /version", {{200, R"({"version":"0.26.0"})"}}},
       {"GET /v1/models", {{200, R"({"data":[{"id":"m","root":"/models/m"}]})"}}},
       {"GET /openapi.json", {{200, R"({"paths":{"/collective_rpc":{},"/weight_checker":{},"/get_world_size":{},
           "/server_info":{},"/start_weight_update":{}}})"}}},
       {"GET /get_world_size", {{200, R"({"world_size":8})"}}},
       {"GET /server_info?config_format=json", {{200, R"({"vllm_config":{"parallel_config":{"tensor_parallel_size":4,
           "pipeline_parallel_size":2,"worker_extension_cls":"checkpoint_engine.worker.VllmColocateWorkerExtension"},
           "model_config":{"enable_sleep_mode":true,"quantization":"fp8"},"kernel_config":{"moe_backend":"auto"},
           "weight_transfer_config":{"backend":"nccl"}}})"}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK(told->version == "0.26.0");
  CHECK(told->model == "/models/m");
  CHECK(told->tensor_parallel == 4);
  CHECK(told->pipeline_parallel == 2);
  CHECK(told->draft_models == 0);  // its drafter loads from the same session
  CHECK(told->can_sleep);
  CHECK(told->can_verify);
  CHECK(told->weight_transfer == "nccl");
  CHECK(told->has_extension);
  CHECK(told->quantization == "fp8");
  CHECK(told->moe_backend == "auto");
  CHECK_FALSE(told->unsuitable);
}

TEST_CASE("describe: by its own weight transfer it can be given weights without the extension") {
  const auto [backend, suitable] =
      GENERATE(table<std::string, bool>({{"ipc", true}, {"nccl", true}, {"sparse_nccl", false}}));
  const auto info = R"({"vllm_config":{"parallel_config":{"worker_extension_cls":"","nnodes":2},
      "weight_transfer_config":{"backend":")" + backend + R"("}}})";
  ScriptedServer server({{"GET /openapi.json", {{200, R"({"paths":{"/collective_rpc":{},"/server_info":{},
                            "/start_weight_update":{}}})"}}},
                         {"GET /server_info?config_format=json", {{200, info}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  CHECK_FALSE(told->has_extension);
  CHECK(told->unsuitable.has_value() != suitable);
  // By NCCL it does not matter where its workers are.
  CHECK(told->warnings.empty() == (backend == "nccl"));
}

TEST_CASE("describe: development mode off, or no extension, with what to start it with") {
  const auto [routes, info, words] = GENERATE(table<std::string, std::string, std::string>({
      {R"({"paths":{"/health":{}}})", "", "not in development mode"},
      {R"({"paths":{"/collective_rpc":{},"/server_info":{}}})",
       R"({"vllm_config":{"parallel_config":{"worker_extension_cls":""}}})", "cannot be given weights"},
  }));
  ScriptedServer server({{"GET /openapi.json", {{200, routes}}}, {"GET /server_info?config_format=json", {{200, info}}}});
  const auto told = engine_at(server)->describe(kLong);
  REQUIRE(told);
  REQUIRE(told->unsuitable);
  CHECK(has(told->unsuitable->sentence, words));
  CHECK(has(told->unsuitable->sentence, "VLLM_SERVER_DEV_MODE=1"));
  CHECK(has(told->unsuitable->sentence, "checkpoint_engine.worker.VllmColocateWorkerExtension"));
}

TEST_CASE("describe: without API documents a route of development mode is tried") {
  ScriptedServer with({{"GET /get_world_size", {{200, R"({"world_size":2})"}}}});
  const auto told = engine_at(with)->describe(kLong);
  REQUIRE(told);
  CHECK_FALSE(told->unsuitable);
  CHECK(told->tensor_parallel == 2);
  ScriptedServer without({});
  CHECK(engine_at(without)->describe(kLong)->unsuitable);
}

TEST_CASE("an update is one call of all workers") {
  ScriptedServer server({{"POST /collective_rpc", {{200, R"({"results":[null,null]})"}}}});
  const auto answer =
      engine_at(server)->call_update({.endpoints = {{"GPU-1f", "ipc:///a"}}, .weight_version = "7"}, kLong, {});
  REQUIRE(answer);
  const auto body = json::parse(server.body_of("POST /collective_rpc"));
  CHECK(body["method"] == "update_weights_from_ipc");
  CHECK(body["args"][0]["GPU-1f"] == "ipc:///a");
  CHECK(body["timeout"] == 60.0);
}

TEST_CASE("a refused update names the engine") {
  ScriptedServer server({});
  const auto answer = engine_at(server)->call_update({}, kLong, {});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::unsupported);
  CHECK(has(answer.error().sentence, "vllm-0"));
  CHECK(has(answer.error().sentence, "VLLM_SERVER_DEV_MODE=1"));
}

TEST_CASE("after an update the cache is flushed and the label set") {
  ScriptedServer server({{"POST /reset_prefix_cache", {{200, R"({"success":true})"}}},
                         {"POST /update_weight_version", {{200, R"({"success":true,"new_version":"7"})"}}}});
  CHECK(engine_at(server)->conclude({.endpoints = {}, .weight_version = "7", .flush_cache = true}, kLong));
  CHECK(server.requests() == std::vector<std::string>{"POST /reset_prefix_cache", "POST /update_weight_version"});
  CHECK(server.body_of("POST /update_weight_version") == R"({"new_version":"7"})");
  ScriptedServer kept({});
  CHECK(engine_at(kept)->conclude({.endpoints = {}, .weight_version = "", .flush_cache = false}, kLong));
  CHECK(kept.requests().empty());
}

TEST_CASE("a cache that requests hold is flushed under them, or the failure is told") {
  const char* running = "POST /reset_prefix_cache?reset_running_requests=true";
  ScriptedServer yields({{"POST /reset_prefix_cache", {{200, R"({"success":false})"}}},
                         {running, {{200, R"({"success":true})"}}}});
  CHECK(engine_at(yields)->conclude({.endpoints = {}, .weight_version = ""}, kLong));
  ScriptedServer holds({{"POST /reset_prefix_cache", {{200, R"({"success":false})"}}},
                        {running, {{200, R"({"success":false})"}}}});
  const auto held = engine_at(holds)->conclude({.endpoints = {}, .weight_version = ""}, kLong);
  REQUIRE_FALSE(held);
  CHECK(held.error().kind == ErrorKind::peer_failed);
  CHECK(has(held.error().sentence, "prefix cache"));
}

TEST_CASE("only a label that cannot be set is unsupported; a cache that cannot be flushed is a failure") {
  ScriptedServer no_label({{"POST /reset_prefix_cache", {{200, ""}}}});
  CHECK(engine_at(no_label)->conclude({.endpoints = {}, .weight_version = "7"}, kLong).error().kind ==
        ErrorKind::unsupported);
  ScriptedServer no_flush({});
  CHECK(engine_at(no_flush)->conclude({.endpoints = {}, .weight_version = "7"}, kLong).error().kind ==
        ErrorKind::peer_failed);
}

TEST_CASE("pausing, resuming and waking are one post each") {
  ScriptedServer server({{"POST /pause?mode=wait&clear_cache=true", {{200, R"({"status":"paused"})"}}},
                         {"POST /resume", {{200, R"({"status":"resumed"})"}}},
                         {"POST /wake_up?tags=weights", {{200, ""}}},
                         {"POST /wake_up?tags=kv_cache", {{200, ""}}}});
  const auto engine = engine_at(server);
  CHECK(engine->pause(Pause::none, kLong, {}));
  CHECK(engine->pause(Pause::wait, kLong, {}));
  CHECK(engine->resume(kLong));
  CHECK(engine->wake_weights(kLong));
  CHECK(engine->wake_rest(kLong));
  CHECK(server.requests().size() == 4);
  CHECK(engine->pause(Pause::retract, kLong, {}).error().kind == ErrorKind::invalid_argument);
  CHECK(server.requests().size() == 4);
  const auto refused = engine->pause(Pause::abort, kLong, {});
  CHECK(refused.error().kind == ErrorKind::unsupported);
  CHECK(has(refused.error().sentence, "VLLM_SERVER_DEV_MODE=1"));
}

TEST_CASE("checksums come by rank") {
  ScriptedServer server({{"POST /weight_checker", {{200, R"({"checksums":{"dp0:pp0:pcp0:tp0:ep0:a":"1"}})"}}}});
  const auto sums = engine_at(server)->checksums(kLong);
  REQUIRE(sums);
  REQUIRE(sums->size() == 1);
  CHECK((*sums)[0].rank == "dp0:pp0:pcp0:tp0:ep0");
  CHECK((*sums)[0].by_tensor.at("a") == "1");
}

TEST_CASE("the API key goes to every route, and a wrong one shows where vLLM asks for it") {
  testing::TemporaryDirectory folder;
  const auto path = folder / "key";
  std::ofstream(path) << "wrong-secret\n";
  ::chmod(path.c_str(), 0600);
  ScriptedServer server({{"GET /version", {{200, "{}"}}}, {"POST /resume", {{200, "{}"}}}});
  CHECK(engine_at(server, path)->resume(kLong));
  CHECK(server.seen().back().authorization == "Bearer wrong-secret");
  server.guard_with("", "right-secret", {"/v1/"});
  const auto told = engine_at(server, path)->describe(kLong);
  REQUIRE_FALSE(told);
  CHECK(told.error().kind == ErrorKind::denied);
  CHECK(has(told.error().sentence, "rejects the API key"));
  CHECK_FALSE(has(told.error().sentence + told.error().vendor, "secret"));
}
