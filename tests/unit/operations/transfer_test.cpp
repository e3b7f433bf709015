// Which way an engine is given weights, and what differs when it is its own.
#include <catch2/catch.hpp>

#include "tests/unit/operations/house.h"
#include "tests/unit/operations/soon.h"

using namespace ckptd;
using namespace ckptd::tests;

namespace {

struct Transfers {
  explicit Transfers(House& house) {
    house.make_transfer = [this, &house](const journal::EngineRecord& engine, const std::string& weight_version,
                                         const std::string& asked) -> Result<std::unique_ptr<ranks::Transfer>> {
      if (refused == asked) return fail(ErrorKind::unavailable, "this daemon has no NCCL");
      ++made;
      way = asked;
      label = weight_version;
      given = engine.name;  // looked at by the test's own thread: Catch2 is for one
      return std::make_unique<FakeTransfer>(house.endpoints);
    };
    house.start();
  }
  int made = 0;
  std::string given, label, way, refused;
};

void add(House& house, const std::string& kind, const std::string& transfer, std::vector<std::string> devices = {}) {
  REQUIRE(house.operations->put_engine({.name = "e", .kind = kind, .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                                        .devices = std::move(devices), .transfer = transfer, .follow = false}));
}

}  // namespace

TEST_CASE("an engine is given weights in its own way where it offers one, and where that is wanted") {
  struct Case {
    std::string kind, transfer, offers, native;  // native: which way; empty: by the sessions of checkpoint-engine
    bool has_extension = true;
    std::vector<std::string> devices = {};
  };
  const auto [kind, transfer, offers, native, has_extension, devices] = GENERATE(
      Case{"vllm", "auto", "ipc", "ipc"}, Case{"vllm", "auto", "", ""}, Case{"vllm", "native", "", "ipc"},
      Case{"vllm", "checkpoint-engine", "ipc", ""}, Case{"sglang", "auto", "ipc", ""},
      // Several devices: workers of this node, which the extension reaches if it is there.
      Case{"vllm", "auto", "nccl", ""}, Case{"vllm", "auto", "nccl", "nccl", false},
      Case{"vllm", "auto", "nccl", "nccl", true, {"HOST-0"}}, Case{"vllm", "native", "nccl", "nccl"},
      Case{"vllm", "checkpoint-engine", "nccl", "", true, {"HOST-0"}});
  House house;
  Transfers transfers(house);
  auto& about = house.behaviour->about.emplace();
  about.weight_transfer = offers;
  about.has_extension = has_extension;
  house.load_or_die("1", 1);
  add(house, kind, transfer, devices);
  const auto job = house.run_update(House::to("1"));
  CHECK(job.state == "succeeded");
  CHECK(transfers.way == native);
  CHECK(transfers.made == (native.empty() ? 0 : 1));
  CHECK(transfers.given == (native.empty() ? "" : "e"));
  CHECK(transfers.label == (native.empty() ? "" : "1"));
  CHECK(house.behaviour->calls == (native.empty() ? 1 : 0));
  CHECK(house.operations->engine("e")->serving == "m@1");
}

TEST_CASE("a way that this daemon cannot go is said, unless there is another") {
  const bool has_extension = GENERATE(true, false);
  const auto transfer = GENERATE(as<std::string>(), "auto", "native");
  House house;
  Transfers transfers(house);
  transfers.refused = "nccl";
  auto& about = house.behaviour->about.emplace();
  about.weight_transfer = "nccl";
  about.has_extension = has_extension;
  house.load_or_die("1", 1);
  add(house, "vllm", transfer, {"HOST-0"});
  const auto job = house.run_update(House::to("1"));
  const bool goes = has_extension && transfer == "auto";
  CHECK(job.state == (goes ? "succeeded" : "failed"));
  CHECK(house.behaviour->calls == (goes ? 1 : 0));
  CHECK(house.operations->engine("e")->poisoned.empty());
}

TEST_CASE("nobody waits at the sessions of an engine's own way, so none is written down") {
  House house;
  house.answer_grace = 200ms;  // the call does not hear of ranks that raise
  Transfers transfers(house);
  house.load_or_die("1", 1);
  add(house, "vllm", "native");
  house.endpoints.fail_reload_on = "HOST-1";
  std::vector<journal::SessionRecord> written;
  bool seen = false;
  const auto following = house.journal->on_change([&] {
    for (const auto& update : house.journal->contents().updates) {
      seen = true;
      written.insert(written.end(), update.sessions.begin(), update.sessions.end());
    }
  });
  CHECK(house.run_update(House::to("1")).state == "failed");
  CHECK(seen);
  CHECK(written.empty());
  CHECK_FALSE(house.operations->engine("e")->poisoned.empty());
  house.endpoints.fail_reload_on.clear();
  house.answer_grace = 5s;
  house.start();
  house.load_or_die("1", 1);
  CHECK(house.run_update(House::to("1")).state == "succeeded");
  CHECK(house.operations->engine("e")->poisoned.empty());
}

TEST_CASE("native is for kinds that have it") {
  House house;
  auto put = house.operations->put_engine(
      {.name = "e", .kind = "sglang", .endpoint = "http://127.0.0.1:1", .checkpoint = "m", .transfer = "native"});
  REQUIRE_FALSE(put);
  CHECK(put.error().kind == ErrorKind::invalid_argument);
  CHECK(put.error().sentence.find("leave transfer at auto") != std::string::npos);
}

TEST_CASE("the way does not depend on whether a server has the time to tell it") {
  House house;
  Transfers transfers(house);
  house.behaviour->about.emplace().weight_transfer = "ipc";
  house.behaviour->about->version = "1.2";
  house.load_or_die("1", 1);
  add(house, "vllm", "auto");
  SECTION("it told once") {
    REQUIRE(soon([&] { return house.operations->engine("e")->server == "1.2"; }));
    house.behaviour->describes = false;
    CHECK(house.run_update(House::to("1")).state == "succeeded");
    CHECK(transfers.way == "ipc");
  }
  SECTION("it never told") {
    house.behaviour->describes = false;
    house.behaviour->restart();  // and what was told was told by another
    house.start();
    house.load_or_die("1", 1);
    const auto job = house.run_update(House::to("1"));
    CHECK(job.state == "failed");
    CHECK(job.error->sentence.find("how it takes weights could not be found out") != std::string::npos);
    CHECK(transfers.made == 0);
  }
  CHECK(house.behaviour->calls == 0);
}
