#include "proto/sglang/about.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "proto/sglang/control.h"

using namespace ckptd;
namespace sglang = proto::sglang;
using proto::answer::Key;

TEST_CASE("the weight version is told, or not, and never guessed") {
  const auto [status, body, version] = GENERATE(table<unsigned, std::string, std::string>({
      {200, R"({"model_path":"m","weight_version":"step-7"})", "step-7"},
      {200, R"({"weight_version":"default"})", "default"},
      {200, R"({"weight_version":null})", ""},
      {200, R"({"weight_version":7})", ""},
      {200, R"({})", ""},
  }));
  CHECK(sglang::read_weight_version(status, body, Key::none) == version);
}

TEST_CASE("what is no answer of SGLang's is an error") {
  const auto [status, body, kind] = GENERATE(table<unsigned, std::string, ErrorKind>({
      {200, "", ErrorKind::peer_failed},
      {200, "[]", ErrorKind::peer_failed},
      {200, "<html>", ErrorKind::peer_failed},
      {404, R"({"detail":"Endpoint '/weight_version' was removed, use /model_info"})", ErrorKind::unsupported},
      {401, R"({"error":"Unauthorized"})", ErrorKind::denied},
      {500, "", ErrorKind::peer_failed},
  }));
  INFO(status << " " << body);
  CHECK(sglang::read_weight_version(status, body, Key::none).error().kind == kind);
  CHECK(sglang::read_server_info(status, body, Key::none).error().kind == kind);
  CHECK_FALSE(sglang::offers_route(body, "/ping"));
}

TEST_CASE("how many draft models load weights of their own") {
  const auto [info, drafts] = GENERATE(table<std::string, unsigned>({
      {R"({})", 0U},
      {R"({"speculative_algorithm":null})", 0U},
      {R"({"speculative_algorithm":"NONE"})", 0U},
      {R"({"speculative_algorithm":"NGRAM","speculative_num_steps":3})", 0U},
      {R"({"speculative_algorithm":"UNO"})", 0U},
      {R"({"speculative_algorithm":"EAGLE","speculative_num_steps":3})", 1U},
      {R"({"speculative_algorithm":"eagle3"})", 1U},
      {R"({"speculative_algorithm":"STANDALONE"})", 1U},
      {R"({"speculative_algorithm":"EAGLE","enable_multi_layer_eagle":true,"speculative_num_steps":3})", 3U},
      {R"({"speculative_algorithm":"EAGLE","enable_multi_layer_eagle":true})", 1U},
  }));
  INFO(info);
  CHECK(sglang::read_server_info(200, info, Key::none)->draft_models == drafts);
}

TEST_CASE("members of other types count as not told") {
  const auto info = sglang::read_server_info(
      200, R"({"version":5,"tp_size":"2","pp_size":0,"dp_size":-1,"nnodes":99999999999,"enable_memory_saver":"yes"})",
      Key::none);
  REQUIRE(info);
  CHECK(info->version.empty());
  CHECK(info->tensor_parallel == 1);
  CHECK(info->pipeline_parallel == 1);
  CHECK(info->data_parallel == 1);
  CHECK(info->nodes == 1);
  CHECK_FALSE(info->memory_saver);
  CHECK(info->quantization.empty());
  CHECK(sglang::read_server_info(200, R"({"quantization":"fp8"})", Key::none)->quantization == "fp8");
}

TEST_CASE("done is a 200 that does not say otherwise") {
  const auto [status, body, done] = GENERATE(table<unsigned, std::string, bool>({
      {200, R"({"message":"Generation paused successfully.","status":"ok"})", true},
      {200, "null", true},
      {200, "", true},
      {200, "Cache flushed.\n", true},
      {200, R"({"success":true})", true},
      {200, R"({"success":false,"message":"no"})", false},
      {400, R"({"error":{"message":"not idle"}})", false},
      {422, R"({"detail":[{"loc":["body","mode"],"msg":"Input should be 'abort'"}]})", false},
  }));
  INFO(status << " " << body);
  const auto read = sglang::read_done("POST /x", status, body, Key::none);
  CHECK(read.has_value() == done);
  if (!read) CHECK(read.error().kind == ErrorKind::peer_failed);
}

TEST_CASE("checksums that are none") {
  const auto [status, body, kind] = GENERATE(table<unsigned, std::string, ErrorKind>({
      {200, R"({"success":true,"message":"compared"})", ErrorKind::peer_failed},
      {200, R"({"success":true,"ranks":[]})", ErrorKind::peer_failed},
      {200, R"({"success":true,"ranks":[{}]})", ErrorKind::peer_failed},
      {200, R"({"success":true,"ranks":[{"checksums":{"a":1}}]})", ErrorKind::peer_failed},
      {200, R"({"success":false,"message":"unsupported action"})", ErrorKind::peer_failed},
      {400, R"({"success":false,"message":"Unknown action"})", ErrorKind::peer_failed},
      {404, R"({"detail":"Not Found"})", ErrorKind::unsupported},
  }));
  INFO(status << " " << body);
  CHECK(sglang::read_checksums(status, body, Key::none).error().kind == kind);
}

TEST_CASE("values of a tensor, from one rank or from each data-parallel one") {
  CHECK(sglang::values_body("model.norm.weight", 9) == R"({"name":"model.norm.weight","truncate_size":9})");
  const auto one = sglang::read_values(200, "[0.5,-2,0.333984375]", Key::none);
  REQUIRE(one);
  CHECK(*one == std::vector<std::vector<double>>{{0.5, -2, 0.333984375}});
  const auto several = sglang::read_values(200, "[[1,2],[3,4]]", Key::none);
  REQUIRE(several);
  CHECK(*several == std::vector<std::vector<double>>{{1, 2}, {3, 4}});
  const auto strange = sglang::read_values(200, "[null,1]", Key::none);
  REQUIRE(strange);
  CHECK(std::isnan((*strange)[0][0]));
}

TEST_CASE("values that are none") {
  const auto [status, body, kind] = GENERATE(table<unsigned, std::string, ErrorKind>({
      {400, R"({"error":{"message":"Get parameter by name failed"}})", ErrorKind::unsupported},
      {404, R"({"detail":"Not Found"})", ErrorKind::unsupported},
      {401, R"({"error":"Unauthorized"})", ErrorKind::denied},
      {500, "", ErrorKind::peer_failed},
      {200, "", ErrorKind::peer_failed},
      {200, "[]", ErrorKind::peer_failed},
      {200, "[[]]", ErrorKind::peer_failed},
      {200, "{}", ErrorKind::peer_failed},
      {200, R"(["a"])", ErrorKind::peer_failed},
      {200, "[[1],2]", ErrorKind::peer_failed},
      {200, "[[[1]]]", ErrorKind::peer_failed},
  }));
  INFO(status << " " << body);
  CHECK(sglang::read_values(status, body, Key::none).error().kind == kind);
}

TEST_CASE("ranks of an older server, and of one that does not say which they are") {
  const auto sums = sglang::read_checksums(
      200, R"({"success":true,"ranks":[{"checksums":{},"parallelism_info":{"tp_rank":3}},{"checksums":{}}]})", Key::none);
  REQUIRE(sums);
  CHECK((*sums)[0].rank == "tp3");
  CHECK((*sums)[1].rank == "rank1");
}

TEST_CASE("values that are nested without end are none, and end nobody") {
  const auto nested = std::string(400'000, '[') + std::string(400'000, ']');
  CHECK(sglang::read_values(200, nested, Key::none).error().kind == ErrorKind::peer_failed);
  CHECK(sglang::read_checksums(200, nested, Key::none).error().kind == ErrorKind::peer_failed);
  CHECK(sglang::read_server_info(200, "{\"a\":" + nested + "}", Key::none).error().kind == ErrorKind::peer_failed);
}
