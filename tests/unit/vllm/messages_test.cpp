#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "proto/vllm/about.h"
#include "proto/vllm/control.h"
#include "proto/vllm/update_weights.h"

using namespace ckptd;
using nlohmann::json;
using proto::answer::Key;
namespace vllm = proto::vllm;

namespace {
bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }
}  // namespace

TEST_CASE("the request is a call of the extension's method with the endpoints as its one argument") {
  const auto body = json::parse(
      vllm::update_request_body({{"GPU-1f", "ipc:///r/a"}, {"GPU-2e", "ipc:///r/b"}}, std::chrono::milliseconds(90'500)));
  CHECK(body == json{{"method", "update_weights_from_ipc"},
                     {"args", {{{"GPU-1f", "ipc:///r/a"}, {"GPU-2e", "ipc:///r/b"}}}},
                     {"kwargs", json::object()},
                     {"timeout", 90.5}});
  CHECK(json::parse(vllm::update_request_body({}, std::chrono::milliseconds(1)))["args"] ==
        json::array({json::object()}));
}

TEST_CASE("success is a 200 whose workers returned nothing") {
  CHECK(vllm::read_update_answer(200, R"({"results":[null]})", Key::none));
  CHECK(has(*vllm::read_update_answer(200, R"({"results":[null,null]})", Key::none), "2 worker"));
  CHECK(vllm::read_update_answer(200, "", Key::none));
}

TEST_CASE("everything else is an error with the server's words") {
  const auto [status, body, kind, words] = GENERATE(table<unsigned, std::string, ErrorKind, std::string>({
      {200, R"({"results":[]})", ErrorKind::peer_failed, "no worker"},
      {200, R"({"results":[null,"done"]})", ErrorKind::peer_failed, "worker 1"},
      {200, R"({"results":[false]})", ErrorKind::peer_failed, "worker 0"},
      {200, R"({"results":null})", ErrorKind::peer_failed, "vLLM"},
      {200, R"({"message":"hello"})", ErrorKind::peer_failed, "vLLM"},
      {200, "hello", ErrorKind::peer_failed, "vLLM"},
      {400, R"({"detail":"Missing 'method' in request body"})", ErrorKind::peer_failed, "Missing 'method'"},
      {401, R"({"error":"Unauthorized"})", ErrorKind::denied, "--api-key-file"},
      {404, R"({"detail":"Not Found"})", ErrorKind::unsupported, "VLLM_SERVER_DEV_MODE=1"},
      {404, R"({"error":{"message":"Not Found","code":404}})", ErrorKind::unsupported, "--worker-extension-cls"},
      {405, "", ErrorKind::unsupported, "VLLM_SERVER_DEV_MODE=1"},
      {500, "Internal Server Error", ErrorKind::peer_failed, "Internal Server Error"},
      {500, R"({"error":{"message":"EngineCore encountered an issue. See the stack trace.","code":500}})",
       ErrorKind::peer_failed, "EngineCore"},
      {500, R"({"error":{"message":"Call to collective_rpc method failed: 'GPU-9'","code":500}})",
       ErrorKind::peer_failed, "GPU-9"},
      {500, R"({"error":{"message":"Call to collective_rpc method failed: Method 'update_weights_from_ipc' is not implemented.","code":500}})",
       ErrorKind::unsupported, "checkpoint_engine.worker.VllmColocateWorkerExtension"},
      {500, R"({"error":{"message":"'Worker' object has no attribute 'update_weights_from_ipc'"}})",
       ErrorKind::unsupported, "--worker-extension-cls"},
      {504, R"({"error":{"message":"RPC call to collective_rpc timed out."}})", ErrorKind::peer_failed, "timed out"},
  }));
  INFO(status << " " << body);
  const auto answer = vllm::read_update_answer(status, body, Key::none);
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == kind);
  INFO(answer.error().sentence << " | " << answer.error().vendor);
  CHECK(has(answer.error().sentence + answer.error().vendor, words));
}

TEST_CASE("routes tell whether the server is in development mode") {
  const auto routes = vllm::read_routes(R"({"openapi":"3.1.0","paths":{"/health":{},"/collective_rpc":{},
      "/weight_checker":{},"/get_world_size":{}}})");
  REQUIRE(routes);
  CHECK(routes->collective_rpc);
  CHECK(routes->weight_checker);
  CHECK(routes->world_size);
  CHECK_FALSE(routes->weight_transfer);
  CHECK_FALSE(routes->server_info);
  CHECK_FALSE(vllm::read_routes("{}"));
  CHECK_FALSE(vllm::read_routes("<html>"));
  CHECK_FALSE(vllm::read_routes(R"({"paths":["/collective_rpc"]})"));
}

TEST_CASE("the configuration as JSON is read, the one as text counts as not told") {
  const auto info = vllm::read_server_info(200, R"({"vllm_config":{"parallel_config":{"tensor_parallel_size":4,
      "pipeline_parallel_size":2,"data_parallel_size":8,"nnodes":2,"worker_extension_cls":"a.B"},
      "model_config":{"enable_sleep_mode":true,"quantization":"fp8"},"kernel_config":{"moe_backend":"triton"},
      "weight_transfer_config":{"backend":"ipc"}},"vllm_env":{}})");
  REQUIRE(info);
  CHECK(info->tensor_parallel == 4);
  CHECK(info->pipeline_parallel == 2);
  CHECK(info->data_parallel == 8);
  CHECK(info->nodes == 2);
  CHECK(info->sleep_mode);
  CHECK(info->weight_transfer == "ipc");
  CHECK(info->extension == "a.B");
  CHECK(info->quantization == "fp8");
  CHECK(info->moe_backend == "triton");
  const auto bare = vllm::read_server_info(200, R"({"vllm_config":{"weight_transfer_config":null}})");
  REQUIRE(bare);
  CHECK(bare->weight_transfer.empty());
  CHECK(bare->quantization.empty());
  CHECK(bare->moe_backend.empty());
  CHECK_FALSE(vllm::read_server_info(200, R"({"vllm_config":"model='m', tensor_parallel_size=4"})"));
  CHECK_FALSE(vllm::read_server_info(404, R"({"detail":"Not Found"})"));
}

TEST_CASE("small answers, told or not") {
  CHECK(vllm::read_truth(200, R"({"is_sleeping":true})", "is_sleeping") == true);
  CHECK(vllm::read_truth(200, R"({"is_sleeping":false})", "is_sleeping") == false);
  CHECK_FALSE(vllm::read_truth(200, R"({"is_sleeping":1})", "is_sleeping"));
  CHECK_FALSE(vllm::read_truth(404, R"({"is_sleeping":true})", "is_sleeping"));
  CHECK(vllm::read_world_size(200, R"({"world_size":8})") == 8U);
  CHECK_FALSE(vllm::read_world_size(200, R"({"world_size":0})"));
  CHECK(vllm::read_version(200, R"({"version":"0.26.0"})") == "0.26.0");
  CHECK(vllm::read_version(200, "0.26.0").empty());
  CHECK(vllm::read_model(200, R"({"object":"list","data":[{"id":"served","root":"/models/m"}]})") == "/models/m");
  CHECK(vllm::read_model(200, R"({"data":[{"id":"served","root":null}]})") == "served");
  CHECK(vllm::read_model(200, R"({"data":[]})").empty());
  CHECK(vllm::read_weight_version(200, R"({"weight_version":"7"})") == "7");
  CHECK(vllm::read_weight_version(200, R"({"weight_version":null})").empty());
  CHECK(vllm::read_weight_version(404, R"({"weight_version":"7"})").empty());
}

TEST_CASE("the gauge of sleep is read of every engine") {
  const auto line = [](const char* engine, const char* state, const char* value) {
    return fmt::format("vllm:engine_sleep_state{{engine=\"{}\",model_name=\"m\",sleep_state=\"{}\"}} {}\n", engine, state,
                       value);
  };
  const std::string head = "# HELP vllm:engine_sleep_state x\n# TYPE vllm:engine_sleep_state gauge\n";
  CHECK(vllm::read_awake(200, head + line("0", "awake", "1.0") + line("0", "discard_all", "0.0")) == true);
  CHECK(vllm::read_awake(200, head + line("0", "awake", "0.0") + line("0", "discard_all", "1.0")) == false);
  CHECK(vllm::read_awake(200, line("0", "awake", "1.0") + line("1", "awake", "0.0")) == false);
  CHECK_FALSE(vllm::read_awake(200, head));
  CHECK_FALSE(vllm::read_awake(200, ""));
  CHECK_FALSE(vllm::read_awake(404, line("0", "awake", "1.0")));
}

TEST_CASE("targets and bodies of the other calls") {
  CHECK(vllm::pause_target("keep") == "/pause?mode=keep&clear_cache=true");
  CHECK(vllm::label_body("step \"7\"") == R"({"new_version":"step \"7\""})");
  CHECK(json::accept(vllm::label_body("\xff")));
}

TEST_CASE("the cache's answer: old servers say nothing, new ones may say no") {
  CHECK(vllm::read_cache_reset(200, "", Key::none) == true);
  CHECK(vllm::read_cache_reset(200, R"({"success":true})", Key::none) == true);
  CHECK(vllm::read_cache_reset(200, R"({"success":false})", Key::none) == false);
  CHECK(vllm::read_cache_reset(404, "", Key::none).error().kind == ErrorKind::unsupported);
}

TEST_CASE("checksums are split by the ranks that their names begin with") {
  const auto sums = vllm::read_checksums(
      200, R"({"checksums":{"dp0:pp0:pcp0:tp0:ep0:a.weight":"1","dp0:pp0:pcp0:tp1:ep0:a.weight":"2",
      "dp0:pp0:pcp0:tp0:ep0:odd:name":"3"}})", Key::none);
  REQUIRE(sums);
  REQUIRE(sums->size() == 2);
  CHECK((*sums)[0].rank == "dp0:pp0:pcp0:tp0:ep0");
  CHECK((*sums)[0].by_tensor == std::map<std::string, std::string>{{"a.weight", "1"}, {"odd:name", "3"}});
  CHECK((*sums)[1].rank == "dp0:pp0:pcp0:tp1:ep0");
  const auto plain = vllm::read_checksums(200, R"({"checksums":{"a.weight":"1"}})", Key::none);
  REQUIRE(plain);
  CHECK((*plain)[0].rank == "all");
  CHECK(vllm::read_checksums(200, R"({"checksums":{}})", Key::none).error().kind == ErrorKind::peer_failed);
  CHECK(vllm::read_checksums(200, R"({"checksums":{"a":1}})", Key::none).error().kind == ErrorKind::peer_failed);
  CHECK(vllm::read_checksums(409, R"({"detail":"weight_checker requires an awake, unpaused engine"})", Key::none)
            .error().vendor == "weight_checker requires an awake, unpaused engine");
  CHECK(vllm::read_checksums(404, "", Key::none).error().kind == ErrorKind::unsupported);
}
