#include "daemon/control/routes.h"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "proto/control/outcome.h"
#include "tests/unit/control/fake_operations.h"

using namespace ckptd;
using control::Request;
using control::Response;
using testing::FakeOperations;
using testing::job_in;

namespace {

Response ask(FakeOperations& operations, const Request& request) {
  auto found = control::find_route(control::routes(), request);
  if (auto* response = std::get_if<Response>(&found)) return *response;
  return control::run_handler(operations, std::get<control::Match>(found));
}

Request to(std::string method, std::string path, std::string body = {}, std::string query = {}) {
  return {.method = std::move(method), .path = std::move(path), .query = std::move(query), .body = std::move(body)};
}

std::string sentence(const Response& response) {
  return response.json.at("error").at("sentence");
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

const std::string kVersionPath = "/v1/checkpoints/Qwen%2FQwen3-8B/versions/7";
const std::string kLoad = R"({"source":{"uri":"file:///m"}})";
const std::string kUpdate = R"({"checkpoint":"n","version":"1"})";
const std::string kEngine = R"({"kind":"sglang","endpoint":"unix:/s","checkpoint":"n"})";

}  // namespace

TEST_CASE("every route reaches its operation with what path, query and body say") {
  struct Row {
    Request request;
    unsigned status;
    std::string call;
  };
  auto row = GENERATE(values<Row>({
      {to("GET", "/readyz"), 200, "status"},
      {to("GET", "/v1/status"), 200, "status"},
      {to("GET", "/v1/checkpoints"), 200, "versions"},
      {to("GET", "/v1/checkpoints/a%2Fb"), 200, "versions"},
      {to("PUT", kVersionPath, kLoad), 202, "load Qwen/Qwen3-8B@7 file:///m false []"},
      {to("GET", kVersionPath), 200, "version Qwen/Qwen3-8B@7 false"},
      {to("GET", kVersionPath, "", "tensors=true"), 200, "version Qwen/Qwen3-8B@7 true"},
      {to("GET", kVersionPath, "", "tensors=false"), 200, "version Qwen/Qwen3-8B@7 false"},
      {to("PATCH", kVersionPath, R"({"kept":true})"), 200, "set_kept Qwen/Qwen3-8B@7 true"},
      {to("PATCH", kVersionPath, R"({"kept":false})"), 200, "set_kept Qwen/Qwen3-8B@7 false"},
      {to("DELETE", kVersionPath), 200, "evict Qwen/Qwen3-8B@7 false"},
      {to("DELETE", kVersionPath, "", "forget=true"), 200, "evict Qwen/Qwen3-8B@7 true"},
      {to("POST", "/v1/store/trim"), 200, "trim"},
      {to("POST", "/v1/updates", kUpdate), 202, "update n@1 force=false []"},
      {to("POST", "/v1/updates", R"({"checkpoint":"n@1","dry_run":true})"), 200, "preview n@1"},
      {to("GET", "/v1/jobs"), 200, "jobs"},
      {to("GET", "/v1/jobs/load-1"), 200, "job load-1"},
      {to("DELETE", "/v1/jobs/load-1"), 202, "cancel_job load-1 false"},
      {to("DELETE", "/v1/jobs/load-1", "", "force=true"), 202, "cancel_job load-1 true"},
      {to("GET", "/v1/jobs/update-1/trace"), 200, "trace update-1"},
      {to("POST", "/v1/probe"), 202, "probe"},
      {to("POST", "/v1/engines/e/verify"), 202, "verify e"},
      {to("GET", "/v1/engines"), 200, "engines"},
      {to("PUT", "/v1/engines/e%201", kEngine), 200, "put_engine e 1 sglang unix:/s n"},
      {to("GET", "/v1/engines/e"), 200, "engine e"},
      {to("DELETE", "/v1/engines/e"), 200, "remove_engine e"},
  }));
  FakeOperations operations;
  auto response = ask(operations, row.request);
  INFO(row.request.show() << " -> " << response.body());
  CHECK(response.status == row.status);
  CHECK(operations.last() == row.call);
  CHECK(response.json.is_object());
  CHECK(response.body().ends_with("}\n"));
}

TEST_CASE("healthz touches no operation") {
  FakeOperations operations;
  auto response = ask(operations, to("GET", "/healthz"));
  CHECK(response.status == 200);
  CHECK(response.json == nlohmann::json{{"status", "ok"}});
  CHECK(operations.calls() == 0);
  Request request = to("GET", "/healthz");
  auto found = control::find_route(control::routes(), request);
  CHECK(std::get<control::Match>(found).route->immediate);
}

TEST_CASE("readyz says what is missing") {
  FakeOperations operations;
  CHECK(ask(operations, to("GET", "/readyz")).json == nlohmann::json{{"ready", true}});
  operations.ready = false;
  auto response = ask(operations, to("GET", "/readyz"));
  CHECK(response.status == 503);
  CHECK(response.json == nlohmann::json{{"ready", false}, {"not_ready", {"a/b@1 is loading"}}});
}

TEST_CASE("lists are objects with one member") {
  FakeOperations operations;
  CHECK(ask(operations, to("GET", "/v1/checkpoints")).json["versions"].size() == 3);
  CHECK(ask(operations, to("GET", "/v1/checkpoints/a%2Fb")).json["versions"].size() == 2);
  CHECK(ask(operations, to("GET", "/v1/jobs")).json["jobs"].size() == 1);
  CHECK(ask(operations, to("GET", "/v1/engines")).json["engines"][0]["name"] == "e");
  CHECK(ask(operations, to("POST", "/v1/store/trim")).json["bytes"] == 4096);
  CHECK(ask(operations, to("POST", "/v1/store/trim")).json["communicators"] == 2);
  auto unknown = ask(operations, to("GET", "/v1/checkpoints/nobody"));
  CHECK(unknown.status == 404);
  CHECK(contains(sentence(unknown), "nobody"));
}

TEST_CASE("a job that has ended is answered with 200") {
  FakeOperations operations;
  for (auto state : {"succeeded", "failed", "cancelled"}) {
    operations.set_job(job_in(state));
    CHECK(ask(operations, to("PUT", kVersionPath, kLoad)).status == 200);
    CHECK(ask(operations, to("POST", "/v1/updates", kUpdate)).status == 200);
  }
}

TEST_CASE("a wait is asked for, bounded, and pointless for a job that has ended") {
  FakeOperations operations;
  CHECK(ask(operations, to("GET", "/v1/jobs/j")).may_wait.count() == 0);
  CHECK(ask(operations, to("GET", "/v1/jobs/j", "", "wait=30")).may_wait == std::chrono::seconds(30));
  CHECK(ask(operations, to("GET", "/v1/jobs/j", "", "wait=0")).may_wait.count() == 0);
  for (auto wrong : {"wait=31", "wait=-1", "wait=", "wait", "wait=1.5", "wait=1s", "wait=99999999999999999999"}) {
    auto response = ask(operations, to("GET", "/v1/jobs/j", "", wrong));
    CHECK(response.status == 400);
    CHECK(contains(sentence(response), "wait"));
  }
  operations.set_job(job_in("failed"));
  CHECK(ask(operations, to("GET", "/v1/jobs/j", "", "wait=30")).may_wait.count() == 0);
}

TEST_CASE("query parameters: unknown, twice, or no flag") {
  FakeOperations operations;
  auto [method, path, query, culprit] = GENERATE_COPY(table<std::string, std::string, std::string, std::string>({
      {"GET", "/healthz", "x=1", "x"},
      {"GET", kVersionPath, "tensor=true", "tensor"},
      {"GET", kVersionPath, "tensors=yes", "yes"},
      {"GET", kVersionPath, "tensors", "tensors"},
      {"GET", kVersionPath, "tensors=true&tensors=true", "twice"},
      {"GET", kVersionPath, "tensors=true&wait=1", "wait"},
      {"GET", kVersionPath, "%74ensors=%zz", "%zz"},
      {"DELETE", kVersionPath, "force=true", "force"},
      {"GET", "/v1/jobs", "wait=3", "wait"},
      {"GET", "/v1/jobs", "=", "''"},
  }));
  auto response = ask(operations, to(method, path, "", query));
  INFO(query << " -> " << response.body());
  CHECK(response.status == 400);
  CHECK(contains(sentence(response), culprit));
  CHECK(operations.calls() == 0);
}

TEST_CASE("query parameters are decoded, empty pieces do not matter") {
  FakeOperations operations;
  CHECK(ask(operations, to("GET", kVersionPath, "", "&%74ensors=tr%75e&")).status == 200);
  CHECK(operations.last() == "version Qwen/Qwen3-8B@7 true");
}

TEST_CASE("an unknown path is 404 and names what is near") {
  FakeOperations operations;
  auto [path, near, far] = GENERATE(table<std::string, std::string, std::string>({
      {"/v1/job/load-1", "/v1/jobs", "/healthz"},
      {"/v1/checkpoints/n/versions", "/v1/checkpoints/{name}/versions/{version}", "/v1/jobs"},
      {"/v1/checkpoints/n/versions/", "/v1/checkpoints/{name}/versions/{version}", "/v1/jobs"},
      {"/v1/jobs/", "/v1/jobs", "/healthz"},
      {"/v1/engines/e/x", "/v1/engines/{name}", "/v1/updates"},
      {"/v1/store/trim/", "/v1/store/trim", "/v1/updates"},
      {"/", "/healthz", "nothing at all"},
      {"//v1/jobs", "/v1/jobs", "nothing at all"},
      {"/V1/jobs", "/v1/jobs", "nothing at all"},
      {"/v1/checkpoints//versions/1", "/v1/checkpoints", "/v1/jobs"},
  }));
  auto response = ask(operations, to("GET", path));
  INFO(path << " -> " << response.body());
  CHECK(response.status == 404);
  CHECK(response.json["error"]["kind"] == "not_found");
  CHECK(contains(sentence(response), path));
  CHECK(contains(sentence(response), near));
  CHECK_FALSE(contains(sentence(response), far));
}

TEST_CASE("a slash that is not escaped is corrected") {
  FakeOperations operations;
  auto [path, right] = GENERATE(table<std::string, std::string>({
      {"/v1/checkpoints/Qwen/Qwen3-8B/versions/7", "/v1/checkpoints/Qwen%2FQwen3-8B/versions/7"},
      {"/v1/checkpoints/a/b/c", "/v1/checkpoints/a%2Fb%2Fc"},
      {"/v1/checkpoints/n/version/1", "/v1/checkpoints/{name}/versions/{version}"},
      {"/v1/checkpoints/Qwen/Qwen3-8B", "/v1/checkpoints/Qwen%2FQwen3-8B"},
  }));
  auto response = ask(operations, to("GET", path));
  CHECK(response.status == 400);
  CHECK(contains(sentence(response), right));
}

TEST_CASE("a wrong method is 405 and Allow says which are right") {
  FakeOperations operations;
  auto [method, path, allow] = GENERATE_COPY(table<std::string, std::string, std::string>({
      {"POST", kVersionPath, "PUT, GET, PATCH, DELETE"},
      {"GET", "/v1/updates", "POST"},
      {"HEAD", "/healthz", "GET"},
      {"get", "/healthz", "GET"},
      {"", "/healthz", "GET"},
      {"OPTIONS", "/v1/jobs/j", "GET, DELETE"},
  }));
  auto response = ask(operations, to(method, path));
  CHECK(response.status == 405);
  REQUIRE(response.headers.size() == 1);
  CHECK(response.headers[0] == std::pair<std::string, std::string>("Allow", allow));
  CHECK(contains(sentence(response), allow));
}

TEST_CASE("broken escapes, control characters and things that are no path") {
  FakeOperations operations;
  auto path = GENERATE(as<std::string>{}, "/v1/jobs/%", "/v1/jobs/%4", "/v1/jobs/%zz", "/v1/jobs/a%00b",
                       "/v1/jobs/a%0Ab", "/v1/engines/%7F", "", "v1/jobs", "http://localhost/v1/jobs", "*");
  auto response = ask(operations, to("GET", path));
  INFO(path << " -> " << response.body());
  CHECK(response.status == 400);
  CHECK(contains(sentence(response), path.substr(path.rfind('/') + 1)));
  CHECK(operations.calls() == 0);
}

TEST_CASE("an escaped separator stays inside its segment") {
  FakeOperations operations;
  ask(operations, to("GET", "/v1/checkpoints/a%2Fversions%2F1/versions/2%3Ftensors=true"));
  CHECK(operations.last() == "version a/versions/1@2?tensors=true false");
}

TEST_CASE("an idempotency key reaches the operation, or is refused with its name") {
  FakeOperations operations;
  auto with_key = [&](std::string key) {
    auto request = to("PUT", kVersionPath, kLoad);
    request.headers["idempotency-key"] = std::move(key);
    return ask(operations, request);
  };
  CHECK(with_key("run 17").status == 202);
  CHECK(operations.last().ends_with("[run 17]"));
  CHECK(with_key(std::string(128, 'k')).status == 202);
  auto before = operations.calls();
  for (const auto& wrong :
       {std::string(), std::string(129, 'k'), std::string("a\nb"), std::string("\xc3\xa4"), std::string("\0", 1)}) {
    auto response = with_key(wrong);
    CHECK(response.status == 400);
    CHECK(contains(sentence(response), "Idempotency-Key"));
  }
  CHECK(operations.calls() == before);
  auto update = to("POST", "/v1/updates", kUpdate);
  update.headers["idempotency-key"] = "u";
  ask(operations, update);
  CHECK(operations.last().ends_with("[u]"));
}

TEST_CASE("a wrong body is 400 and no operation is called") {
  FakeOperations operations;
  auto request =
      GENERATE(to("PUT", kVersionPath, ""), to("PUT", kVersionPath, "{}"), to("PUT", kVersionPath, "[1"),
               to("PUT", "/v1/engines/e", R"({"kind":7})"), to("POST", "/v1/updates", R"({"checkpoint":"n"})"),
               to("PATCH", kVersionPath, R"({"keep":true})"), to("POST", "/v1/updates", "null"));
  auto response = ask(operations, request);
  CHECK(response.status == 400);
  CHECK(response.json["error"]["kind"] == "invalid_argument");
  CHECK(operations.calls() == 0);
}

TEST_CASE("an error of any kind becomes its status, with facts and vendor text") {
  FakeOperations operations;
  for (const auto& outcome : proto::control::outcomes()) {
    if (outcome.kind == ErrorKind::internal) continue;
    operations.fail_with(Error{outcome.kind, "sglang-0 is in the way", "vendor's words", {{"job", "update-3"}}});
    for (const auto& request :
         {to("PUT", kVersionPath, kLoad), to("DELETE", kVersionPath), to("POST", "/v1/updates", kUpdate),
          to("DELETE", "/v1/jobs/j"), to("PUT", "/v1/engines/e", kEngine), to("DELETE", "/v1/engines/e")}) {
      auto response = ask(operations, request);
      CHECK(response.status == outcome.http_status);
      CHECK(response.json["error"]["kind"] == name_of(outcome.kind));
      CHECK(sentence(response) == "sglang-0 is in the way");
      CHECK(response.json["error"]["vendor"] == "vendor's words");
      CHECK(response.json["error"]["facts"]["job"] == "update-3");
    }
  }
}

TEST_CASE("of an internal error the client learns where to look and nothing else") {
  FakeOperations operations;
  operations.fail_with(Error{ErrorKind::internal, "secret sentence", "secret vendor", {{"secret", "fact"}}});
  auto failed = ask(operations, to("GET", "/v1/jobs/j"));
  operations.on_call = [] { throw std::runtime_error("secret exception"); };
  auto thrown = ask(operations, to("GET", "/v1/jobs/j"));
  operations.on_call = [] { throw 7; };
  auto odd = ask(operations, to("GET", "/v1/jobs/j"));
  for (const auto& response : {failed, thrown, odd}) {
    CHECK(response.status == 500);
    CHECK_FALSE(contains(response.body(), "secret"));
    CHECK(contains(sentence(response), "GET /v1/jobs/j"));
    CHECK(contains(sentence(response), "log"));
  }
}

TEST_CASE("bytes that are not UTF-8 become an answer all the same") {
  FakeOperations operations;
  operations.fail_with(Error{ErrorKind::io, "file \xff\xfe.safetensors"});
  auto response = ask(operations, to("GET", "/v1/jobs/%FF%FE"));
  CHECK(response.status == 500);
  CHECK(nlohmann::json::accept(response.body()));
}
