#include "proto/vllm/weight_transfer/answers.h"

#include <catch2/catch.hpp>

using namespace ckptd;
using namespace ckptd::proto::vllm::weight_transfer;

namespace {

Error refused(unsigned status, std::string_view body) {
  auto done = read_done("/update_weights", {status, body, {}});
  REQUIRE_FALSE(done);
  return done.error();
}

}  // namespace

TEST_CASE("a 200 is the acknowledgement, whatever it says") {
  CHECK(read_done("/update_weights", {200, R"({"message":"Weights updated"})", {}}));
  CHECK(read_done("/update_weights", {200, "", {}}));
}

TEST_CASE("what a server lacks is said with what to start it with") {
  const auto missing = refused(404, R"({"detail":"Not Found"})");
  CHECK(missing.kind == ErrorKind::unsupported);
  CHECK(missing.sentence.find("VLLM_SERVER_DEV_MODE=1") != std::string::npos);
  CHECK(missing.sentence.find("checkpoint-engine") != std::string::npos);

  const auto insecure = refused(
      500, R"({"error":{"message":"Refusing to deserialize `ipc_handles_pickled` without VLLM_ALLOW_INSECURE_SERIALIZATION=1","type":"InternalServerError","code":500}})");
  CHECK(insecure.kind == ErrorKind::unsupported);
  CHECK(insecure.sentence.find("start vLLM with VLLM_ALLOW_INSECURE_SERIALIZATION=1") != std::string::npos);
  CHECK(insecure.vendor.starts_with("Refusing to deserialize"));

  const auto unconfigured = refused(500, R"({"error":"Weight transfer not configured. Please set weight_transfer_config"})");
  CHECK(unconfigured.kind == ErrorKind::unsupported);
  CHECK(unconfigured.sentence.find("--weight-transfer-config") != std::string::npos);
}

TEST_CASE("other refusals come with the server's words") {
  CHECK(refused(401, R"({"error":"Unauthorized"})").kind == ErrorKind::denied);
  const auto failed = refused(500, R"({"error":{"message":"CUDA error: out of memory"}})");
  CHECK(failed.kind == ErrorKind::peer_failed);
  CHECK(failed.sentence == "the server failed at POST /update_weights (500): CUDA error: out of memory");
  CHECK(failed.vendor == "CUDA error: out of memory");
  CHECK(refused(500, "").sentence == "the server failed at POST /update_weights (500): no reason given");
  const auto handle = refused(500, R"({"error":"IPC handle not found for GPU UUID 1f. Available UUIDs: []"})");
  CHECK(handle.sentence.find("give the engine the devices of all its workers") != std::string::npos);
}

TEST_CASE("refusals that have a remedy are recognised, and nothing else is taken for them") {
  const Answer packed{500, R"({"error":{"message":"Invalid init_info for IPCWeightTransferEngine: IPCWeightTransferInitInfo.__init__() got an unexpected keyword argument 'packed'"}})", {}};
  CHECK(knows_no_packed(packed));
  CHECK_FALSE(knows_no_packed({200, R"({"message":"unexpected keyword 'packed'"})", {}}));
  CHECK_FALSE(knows_no_packed({500, R"({"error":"packed buffers are out of memory"})", {}}));

  const Answer active{500, R"({"error":"start_weight_update called while a weight update is already active. Call finish_weight_update first."})", {}};
  CHECK(is_already_active(active));
  CHECK(is_already_active({409, R"({"detail":"start_weight_update called while a weight update is already in progress."})", {}}));
  CHECK_FALSE(is_already_active({500, R"({"error":"boom"})", {}}));

  CHECK(has_no_session({500, R"({"error":"finish_weight_update called without a matching start_weight_update."})", {}}));
  CHECK_FALSE(has_no_session({200, "", {}}));
}

TEST_CASE("the configuration is read as far as it is told") {
  CHECK(read_config({200, R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc"}}})", {}})->backend == "ipc");
  CHECK(read_config({200, R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc","packed":false}}})", {}})->packed ==
        std::optional(false));
  CHECK(read_config({200, R"({"vllm_config":{"weight_transfer_config":null}})", {}})->backend.empty());
  CHECK_FALSE(read_config({200, R"x({"vllm_config":"VllmConfig(model='x')", {}})x"}));
  CHECK(read_config({200, R"({"vllm_config":{},"vllm_env":{"VLLM_ALLOW_INSECURE_SERIALIZATION":false}})", {}})->takes_pickles ==
        std::optional(false));
  CHECK_FALSE(read_config({200, R"({"vllm_config":{}})", {}})->takes_pickles);
  CHECK_FALSE(check_takes_pickles({.backend = "ipc", .packed = {}, .takes_pickles = false}));
  CHECK(check_takes_pickles({.backend = "ipc", .packed = {}, .takes_pickles = {}}));
  CHECK(read_config({200, R"({"vllm_config":{"speculative_config":{"method":"mtp"}}})", {}})->drafts_from_checkpoint);
  CHECK_FALSE(read_config({200, R"({"vllm_config":{"speculative_config":{"method":"eagle3"}}})", {}})->drafts_from_checkpoint);
  CHECK_FALSE(read_config({404, R"({"detail":"Not Found"})", {}}));
  CHECK(read_world_size({200, R"({"world_size":8})", {}}) == 8U);
  CHECK_FALSE(read_world_size({200, R"({"world_size":-1})", {}}));
  CHECK_FALSE(read_world_size({404, "", {}}));
}

TEST_CASE("a configuration that is nested without end is none, and ends nobody") {
  // Copying a value takes stack for each of its levels: 100,000 are more than a thread has.
  const auto nested = [](std::size_t levels) {
    return R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc","x":)" + std::string(levels, '[') +
           std::string(levels, ']') + "}}}";
  };
  CHECK_FALSE(read_config({200, nested(400'000), {}}));
  CHECK_FALSE(read_config({200, nested(62), {}}));
  REQUIRE(read_config({200, nested(61), {}}));
  CHECK(read_config({200, nested(61), {}})->backend == "ipc");
  // What stands in a text is no nesting, behind a quote that belongs to it either.
  const auto text = R"({"vllm_config":{"weight_transfer_config":{"backend":"ipc","x":"\"\\)" + std::string(100, '[') + "\"}}}";
  REQUIRE(read_config({200, text, {}}));
}
