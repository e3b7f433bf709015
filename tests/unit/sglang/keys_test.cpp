// Wrong, missing and rejected keys are told apart, and no key is told.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "daemon/fleet/sglang/sglang_engine.h"
#include "tests/unit/fleet/scripted_server.h"

using namespace ckptd;
using testing::ScriptedServer;
using testing::TemporaryDirectory;

namespace {

constexpr auto kLong = std::chrono::milliseconds(60'000);
const fleet::UpdateCall kCall{.endpoints = {{"HOST-0", "ipc:///r/a"}}, .weight_version = "7", .flush_cache = true};
const std::vector<std::string> kAdminRoutes{"/update_weights_from_ipc", "/pause_generation"};

std::string key_file(const TemporaryDirectory& folder, const std::string& name, const std::string& key) {
  const auto path = folder / name;
  std::ofstream(path) << key << "\n";
  ::chmod(path.c_str(), 0600);
  return path;
}

std::map<std::string, std::vector<testing::Reply>> routes() {
  return {{"GET /ping", {{200, ""}}},
          {"GET /ready", {{200, ""}}},
          {"GET /model_info", {{200, R"({"weight_version":"7"})"}}},
          {"POST /pause_generation", {{200, "{}"}}},
          {"POST /update_weights_from_ipc", {{200, R"({"success":true,"message":"done"})"}}}};
}

std::string fact(const Error& error, const std::string& name) {
  for (const auto& [known, value] : error.facts)
    if (known == name) return value;
  return {};
}

struct Case {
  std::string server_api, server_admin;  ///< empty: not set
  std::string our_api, our_admin;        ///< empty: no file
  std::string fact;                      ///< empty: the update succeeds
  std::string says;
};

}  // namespace

TEST_CASE("SGLang's rules for keys, from outside") {
  const auto each = GENERATE(values<Case>({
      {"", "", "", "", "", ""},
      {"", "", "api-secret", "", "", ""},  // a key that nobody wants does no harm
      {"api-secret", "", "api-secret", "", "", ""},
      {"api-secret", "", "", "", "missing", "--api-key-file"},
      {"api-secret", "", "wrong-secret", "", "rejected", "rejects the API key"},
      {"", "admin-secret", "", "admin-secret", "", ""},
      {"", "admin-secret", "", "", "missing", "--admin-key-file"},
      {"", "admin-secret", "api-secret", "", "admin_required", "admin_key_file"},
      {"api-secret", "admin-secret", "api-secret", "", "admin_required", "admin_key_file"},
      {"api-secret", "admin-secret", "wrong-secret", "", "rejected", "rejects the API key"},
      {"api-secret", "admin-secret", "api-secret", "admin-secret", "", ""},
      {"api-secret", "admin-secret", "api-secret", "wrong-secret", "rejected", "rejects the admin key"},
  }));
  INFO("server " << each.server_api << "/" << each.server_admin << ", ours " << each.our_api << "/" << each.our_admin);
  TemporaryDirectory folder;
  ScriptedServer server(routes());
  server.guard_with(each.server_api, each.server_admin, kAdminRoutes);
  const auto engine = fleet::sglang::make_engine(
      {.name = "sglang-0",
       .kind = "sglang",
       .endpoint = server.endpoint(),
       .api_key_file = each.our_api.empty() ? "" : key_file(folder, "api", each.our_api),
       .admin_key_file = each.our_admin.empty() ? "" : key_file(folder, "admin", each.our_admin)});
  for (const bool updates : {true, false}) {
    const auto call = [&]() -> Result<> {
      if (!updates) return engine->pause(fleet::Pause::abort, kLong, {});
      CKPTD_TRY(engine->call_update(kCall, kLong, {}));
      return {};
    };
    const auto answer = call();
    CHECK(answer.has_value() == each.fact.empty());
    if (answer) continue;
    const auto& error = answer.error();
    CHECK(error.kind == ErrorKind::denied);
    CHECK(fact(error, "key") == each.fact);
    CHECK(error.sentence.find(each.says) != std::string::npos);
    // The server repeats the header that it was sent; nothing of it may come through.
    CHECK(error.sentence.find("secret") == std::string::npos);
    CHECK(error.vendor.find("secret") == std::string::npos);
  }
}

TEST_CASE("a key is read at each call, so that replacing the file rotates it") {
  TemporaryDirectory folder;
  ScriptedServer server(routes());
  server.guard_with("first-secret", "", kAdminRoutes);
  const auto path = key_file(folder, "api", "first-secret");
  const auto engine = fleet::sglang::make_engine(
      {.name = "e", .kind = "sglang", .endpoint = server.endpoint(), .api_key_file = path, .admin_key_file = {}});
  CHECK(engine->observe(kLong));
  server.guard_with("second-secret", "", kAdminRoutes);
  CHECK(engine->observe(kLong).error().kind == ErrorKind::denied);
  key_file(folder, "api", "second-secret");
  CHECK(engine->observe(kLong));
}

TEST_CASE("a key file that cannot be used ends the call before the server is asked") {
  TemporaryDirectory folder;
  ScriptedServer server(routes());
  const auto engine = fleet::sglang::make_engine({.name = "e",
                                                  .kind = "sglang",
                                                  .endpoint = server.endpoint(),
                                                  .api_key_file = folder / "none",
                                                  .admin_key_file = {}});
  const auto answer = engine->call_update(kCall, kLong, {});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == ErrorKind::denied);
  CHECK(fact(answer.error(), "key") == "unreadable");
  CHECK(answer.error().sentence.find(folder / "none") != std::string::npos);
  CHECK(server.requests().empty());
}
