#include "proto/sglang/update_weights.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace ckptd;
using nlohmann::json;
namespace sglang = proto::sglang;

TEST_CASE("the request has the members that the server knows, and no others") {
  auto body =
      json::parse(sglang::update_request_body({{"HOST-0", "ipc:///r/a"}, {"GPU-1f", "ipc:///r/b"}}, "n@7", false));
  CHECK(body == json{{"zmq_handles", {{"HOST-0", "ipc:///r/a"}, {"GPU-1f", "ipc:///r/b"}}},
                     {"flush_cache", false},
                     {"weight_version", "n@7"}});
}

TEST_CASE("an instance of a divided GPU has its endpoint under both spellings") {
  const auto body = json::parse(sglang::update_request_body(
      {{"GPU-fa4ec0da-0000-0000-0000-000000000001", "ipc:///a"}, {"MIG-fa4ec0da-ab00-0000-0000-000000000003", "ipc:///b"}},
      "", true));
  CHECK(body["zmq_handles"] == json{{"GPU-fa4ec0da-0000-0000-0000-000000000001", "ipc:///a"},
                                              {"GPU-fa4ec0da-ab00-0000-0000-000000000003", "ipc:///b"},
                                              {"MIG-fa4ec0da-ab00-0000-0000-000000000003", "ipc:///b"}});
}

TEST_CASE("no version is no member, no handle is an empty object, odd bytes do not throw") {
  CHECK(json::parse(sglang::update_request_body({}, "", true)) ==
        json{{"zmq_handles", json::object()}, {"flush_cache", true}});
  CHECK(json::accept(sglang::update_request_body({{"\xff", "\xfe"}}, "\xc3", true)));
}

TEST_CASE("success is a 200 that says so") {
  auto answer = sglang::read_update_answer(200, R"({"success":true,"message":"IPC weight update completed"})");
  REQUIRE(answer);
  CHECK(*answer == "IPC weight update completed");
  CHECK(sglang::read_update_answer(200, R"({"success":true})") == std::string());
}

TEST_CASE("everything else is an error with the server's words") {
  auto [status, body, kind, words] = GENERATE(table<unsigned, std::string, ErrorKind, std::string>({
      {200, R"({"success":false,"message":"rank 1: CUDA error"})", ErrorKind::peer_failed, "rank 1: CUDA error"},
      {200, R"({"success":"true","message":"m"})", ErrorKind::peer_failed, "m"},
      {200, R"({"success":1,"message":"m"})", ErrorKind::peer_failed, "m"},
      {200, R"({"message":"m"})", ErrorKind::peer_failed, "m"},
      {200, R"([true])", ErrorKind::peer_failed, "[true]"},
      {200, "", ErrorKind::peer_failed, ""},
      {200, "<html>hello</html>", ErrorKind::peer_failed, "<html>"},
      {202, R"({"success":true,"message":"later"})", ErrorKind::peer_failed, "later"},
      {400, R"({"success":false,"message":"Device UUID GPU-2 not found"})", ErrorKind::peer_failed, "GPU-2"},
      {400, R"({"success":true,"message":"odd"})", ErrorKind::peer_failed, "odd"},
      {400, R"({"object":"error","message":"zmq_handles: Field required","code":400})", ErrorKind::peer_failed,
       "Field required"},
      {422, R"({"detail":[{"loc":["body","zmq_handles"],"msg":"Field required"}]})", ErrorKind::peer_failed,
       "Field required"},
      {401, R"({"error":"Unauthorized"})", ErrorKind::denied, "Unauthorized"},
      {403, R"({"error":"Forbidden"})", ErrorKind::denied, "Forbidden"},
      {404, R"({"detail":"Not Found"})", ErrorKind::unsupported, "Not Found"},
      {405, R"({"detail":"Method Not Allowed"})", ErrorKind::unsupported, "Method Not Allowed"},
      {500, "Internal Server Error", ErrorKind::peer_failed, "Internal Server Error"},
      {503, R"({"error":{"message":"shutting down","code":503}})", ErrorKind::peer_failed, "shutting down"},
      {500, R"({"error":null,"detail":{"a":1}})", ErrorKind::peer_failed, R"({"a":1})"},
  }));
  INFO(status << " " << body);
  auto answer = sglang::read_update_answer(status, body);
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == kind);
  CHECK(answer.error().vendor.find(words) != std::string::npos);
  CHECK_FALSE(answer.error().sentence.empty());
}

TEST_CASE("a missing key, a forbidden one and a missing route are told apart") {
  auto sentence = [](unsigned status) { return sglang::read_update_answer(status, "").error().sentence; };
  CHECK(sentence(401).find("401") != std::string::npos);
  CHECK(sentence(403).find("403") != std::string::npos);
  CHECK(sentence(401) != sentence(403));
  CHECK(sentence(404).find("checkpoint-engine") != std::string::npos);
  CHECK(sentence(404).find("/update_weights_from_ipc") != std::string::npos);
}

TEST_CASE("a page of text is cut, odd bytes do not throw") {
  auto long_answer = sglang::read_update_answer(500, std::string(1 << 20, 'x'));
  CHECK(long_answer.error().vendor.size() < 3000);
  CHECK(long_answer.error().sentence.size() < 3000);
  CHECK_FALSE(sglang::read_update_answer(400, "{\"message\":\"\xff\xfe\"}"));
  CHECK_FALSE(sglang::read_update_answer(200, std::string(500'000, '[')));
  const auto nested = "{\"detail\":" + std::string(500'000, '[') + std::string(500'000, ']') + "}";
  CHECK(sglang::read_update_answer(500, nested).error().vendor.size() < 3000);
  CHECK_FALSE(sglang::read_update_answer(200, std::string("\0\0\0", 3)));
}
