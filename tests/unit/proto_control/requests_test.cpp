#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "proto/control/api.h"

using namespace ckptd;
using namespace ckptd::proto::control;

namespace {

template <class T>
void check_refused(const Result<T>& result, const std::string& culprit) {
  REQUIRE_FALSE(result);
  INFO(result.error().sentence);
  CHECK(result.error().kind == ErrorKind::invalid_argument);
  CHECK(result.error().sentence.find(culprit) != std::string::npos);
}

}  // namespace

TEST_CASE("a load request") {
  auto request = parse_load_request(R"({"source":{"uri":"file:///data/a b"},"keep":true})");
  REQUIRE(request);
  CHECK(request->source_uri == "file:///data/a b");
  CHECK(request->keep);
  CHECK_FALSE(parse_load_request(R"({"source":{"uri":"x"}})")->keep);

  auto again = parse_load_request(to_json(*request).dump());
  REQUIRE(again);
  CHECK(again->source_uri == request->source_uri);
  CHECK(again->keep == request->keep);
  CHECK(again->policy == LoadPolicy::availability);
  CHECK_FALSE(to_json(*request).contains("policy"));  // what an older daemon does not know is not sent needlessly

  request->policy = LoadPolicy::resource;
  CHECK(parse_load_request(to_json(*request).dump())->policy == LoadPolicy::resource);
}

TEST_CASE("a wrong load request is refused and the member named") {
  auto [body, culprit] = GENERATE(table<std::string, std::string>({
      {R"({})", "source"},
      {R"({"source":{}})", "source.uri"},
      {R"({"source":{"uri":""}})", "source.uri"},
      {R"({"source":{"uri":7}})", "source.uri"},
      {R"({"source":"file:///x"})", "source"},
      {R"({"source":null})", "source"},
      {R"({"source":{"uri":"x"},"kep":true})", "'kep'"},
      {R"({"source":{"uri":"x","password":"y"}})", "source.password"},
      {R"({"source":{"uri":"x"},"keep":1})", "keep"},
      {R"({"source":{"uri":"x"},"keep":"true"})", "keep"},
      {R"({"source":{"uri":"x"},"keep":null})", "keep"},
      {R"({"source":{"uri":"x"},"policy":"greedy"})", "availability"},
      {R"({"source":{"uri":"x"},"policy":1})", "policy"},
      {R"({"source":{"uri":"x","uri":"y"}})", "'uri'"},
      {R"({"source":{"uri":"x"},"source":{"uri":"x"}})", "'source'"},
      {R"({"name":"a","source":{"uri":"x"}})", "'name'"},
  }));
  INFO(body);
  check_refused(parse_load_request(body), culprit);
}

TEST_CASE("an update request") {
  auto request = parse_update_request(
      R"({"checkpoint":"Qwen/Qwen3","version":"7","engines":["a","b"],"dry_run":true,"force":true,
          "bucket_bytes":18446744073,"flush_cache":false})");
  REQUIRE(request);
  CHECK(request->name == "Qwen/Qwen3");
  CHECK(request->version == "7");
  CHECK(request->engines == std::vector<std::string>{"a", "b"});
  CHECK(request->dry_run);
  CHECK(request->force);
  CHECK(request->bucket_bytes == 18446744073u);
  CHECK(request->flush_cache == false);

  auto again = parse_update_request(to_json(*request).dump());
  REQUIRE(again);
  CHECK(to_json(*again) == to_json(*request));

  auto least = parse_update_request(R"({"checkpoint":"n@v"})");
  REQUIRE(least);
  CHECK(least->name == "n");
  CHECK(least->version == "v");
  CHECK(least->engines.empty());
  CHECK_FALSE(least->dry_run);
  CHECK_FALSE(least->force);
  CHECK_FALSE(least->bucket_bytes);
  CHECK_FALSE(least->flush_cache);
  auto least_again = parse_update_request(to_json(*least).dump());
  REQUIRE(least_again);
  CHECK_FALSE(least_again->bucket_bytes);
}

TEST_CASE("an update request whose trigger somebody else holds") {
  auto request = parse_update_request(R"({"checkpoint":"n@1","trigger":"external","sessions":2,"on_failure":"hold"})");
  REQUIRE(request);
  CHECK(request->external);
  CHECK(request->sessions == 2u);
  auto again = parse_update_request(to_json(*request).dump());
  REQUIRE(again);
  CHECK(to_json(*again) == to_json(*request));

  auto ours = parse_update_request(R"({"checkpoint":"n@1","trigger":"ckptd"})");
  REQUIRE(ours);
  CHECK_FALSE(ours->external);
  CHECK_FALSE(to_json(*ours).contains("trigger"));
}

TEST_CASE("a wrong update request is refused and the member named") {
  auto [body, culprit] = GENERATE(table<std::string, std::string>({
      {R"({"version":"1"})", "checkpoint"},
      {R"({"checkpoint":"n"})", "version"},
      {R"({"checkpoint":"n","version":""})", "version"},
      {R"({"checkpoint":"","version":"1"})", "checkpoint"},
      {R"({"checkpoint":"@1"})", "checkpoint"},
      {R"({"checkpoint":"n@"})", "checkpoint"},
      {R"({"checkpoint":"n@1","version":"1"})", "version"},
      {R"({"checkpoint":"n@1","engines":"e"})", "engines"},
      {R"({"checkpoint":"n@1","engines":["e",5]})", "engines[1]"},
      {R"({"checkpoint":"n@1","engines":[""]})", "engines"},
      {R"({"checkpoint":"n@1","engines":[["e"]]})", "engines[0]"},
      {R"({"checkpoint":"n@1","bucket_bytes":0})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":-5})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":1.5})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":1e3})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":"1"})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":18446744073709551616})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":18446744073709551615})", "bucket_bytes"},
      {R"({"checkpoint":"n@1","bucket_bytes":1e999})", "range"},
      {R"({"checkpoint":"n@1","bucket_bytes":NaN})", "not JSON"},
      {R"({"checkpoint":"n@1","trigger":"me"})", "trigger"},
      {R"({"checkpoint":"n@1","sessions":2})", "sessions"},
      {R"({"checkpoint":"n@1","weight_version":"a\nb"})", "weight_version"},
      {R"({"checkpoint":"n@1","weight_version":")" + std::string(201, 'x') + R"("})", "weight_version"},
      {R"({"checkpoint":"n@1","trigger":"external","sessions":0})", "sessions"},
      {R"({"checkpoint":"n@1","trigger":"external","sessions":65})", "sessions"},
      {R"({"checkpoint":"n@1","trigger":"external","flush_cache":true})", "flush_cache"},
      {R"({"checkpoint":"n@1","trigger":"external","pause":"abort"})", "pause"},
      {R"({"checkpoint":"n@1","trigger":"external","weight_version":"w"})", "weight_version"},
      {R"({"checkpoint":"n@1","trigger":"external","max_unavailable":1})", "max_unavailable"},
      {R"({"checkpoint":"n@1","dryrun":true})", "'dryrun'"},
      {R"({"checkpoint":"n@1","\u0000":true})", "'?'"},
  }));
  INFO(body);
  check_refused(parse_update_request(body), culprit);
}

TEST_CASE("an engine request") {
  auto request =
      parse_engine_request(R"({"kind":"sglang","endpoint":"unix:/x","checkpoint":"n","devices":["HOST-0","HOST-1"]})");
  REQUIRE(request);
  CHECK(request->kind == "sglang");
  CHECK(request->endpoint == "unix:/x");
  CHECK(request->checkpoint == "n");
  CHECK(request->devices == std::vector<std::string>{"HOST-0", "HOST-1"});
  auto again = parse_engine_request(to_json(*request).dump());
  REQUIRE(again);
  CHECK(to_json(*again) == to_json(*request));

  for (std::string lacking : {"kind", "endpoint", "checkpoint"}) {
    auto body = to_json(*request);
    body.erase(lacking);
    check_refused(parse_engine_request(body.dump()), lacking);
    body[lacking] = "";
    check_refused(parse_engine_request(body.dump()), lacking);
  }
  check_refused(parse_engine_request(R"({"kind":"k","endpoint":"e","checkpoint":"n","api_key":"s"})"), "'api_key'");
}

TEST_CASE("an engine request names the files of keys, and a key in their place is not repeated") {
  auto request = parse_engine_request(R"({"kind":"sglang","endpoint":"e","checkpoint":"n","api_key_file":"/k/api",
      "admin_key_file":"/k/admin"})");
  REQUIRE(request);
  CHECK(request->api_key_file == "/k/api");
  CHECK(request->admin_key_file == "/k/admin");
  CHECK(to_json(*parse_engine_request(to_json(*request).dump())) == to_json(*request));
  for (const std::string name : {"api_key_file", "admin_key_file"}) {
    auto body = to_json(*request);
    body[name] = "sk-secret";
    const auto refused = parse_engine_request(body.dump());
    check_refused(refused, name);
    CHECK(refused.error().sentence.find("secret") == std::string::npos);
    body[name] = "";  // as absent
    CHECK(parse_engine_request(body.dump()));
  }
}

TEST_CASE("a keep request") {
  CHECK(parse_keep_request(R"({"kept":true})") == true);
  CHECK(parse_keep_request(R"( { "kept" : false } )") == false);
  check_refused(parse_keep_request(R"({})"), "kept");
  check_refused(parse_keep_request(R"({"kept":0})"), "kept");
  check_refused(parse_keep_request(R"({"keep":true})"), "'keep'");
}

TEST_CASE("what is no JSON object is refused") {
  auto [body, culprit] = GENERATE(table<std::string, std::string>({
      {"", "no body"},
      {" ", "not JSON"},
      {"{", "not JSON"},
      {R"({"kept":true}})", "byte 14"},
      {R"({"kept":true} {"kept":true})", "byte 15"},
      {R"({"kept":true,})", "not JSON"},
      {R"({"kept":true /* why */})", "not JSON"},
      {R"({kept:true})", "not JSON"},
      {R"({'kept':true})", "not JSON"},
      {"{\"kept\":true,\"a\":\"\xff\"}", "not JSON"},
      {"{\"kept\":true,\"a\":\"\n\"}", "not JSON"},
      {R"({"kept":true,"a":"\ud800"})", "not JSON"},
      {std::string("{\"kept\":true}\0", 14), "not JSON"},
      {"[]", "object"},
      {"null", "object"},
      {"\"kept\"", "object"},
      {"7", "object"},
  }));
  INFO(body);
  check_refused(parse_keep_request(body), culprit);
}

TEST_CASE("bombs are refused") {
  check_refused(parse_keep_request(std::string(1 << 20, '[')), "JSON");
  check_refused(parse_keep_request(std::string(1 << 19, '[') + std::string(1 << 19, ']')), "nesting");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  check_refused(parse_keep_request(objects + "1" + std::string(100'000, '}')), "nesting");
  check_refused(parse_keep_request(R"({"kept":true,"a":")" + std::string(1 << 20, 'x') + "\"}"), "bytes");
  check_refused(parse_keep_request(std::string("{\"kept\":true,\"") + std::string(100'000, 'x') + "\":1}"), "xxx...");
}

TEST_CASE("what an engine's record keeps has no control characters") {
  const auto engine = [](std::string_view member, std::string_view value) {
    return fmt::format(R"({{"kind":"sglang","endpoint":"http://h:1","checkpoint":"m","{}":"{}"}})", member, value);
  };
  CHECK(parse_engine_request(engine("api_key_file", "/run/keys/caf\u00e9 1")));
  for (const char* member : {"api_key_file", "admin_key_file"})
    for (const char* wrong : {R"(/run/k\n2026-11-26 I engine prod is serving m@9)", R"(/run/k\u001b[31m)", R"(/run/k\u009b31m)"})
      check_refused(parse_engine_request(engine(member, wrong)), member);
}
