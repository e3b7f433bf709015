// Which way an engine is given weights, and what differs when it is its own.
#include <catch2/catch.hpp>

#include "tests/unit/operations/house.h"

using namespace ckptd;
using namespace ckptd::tests;

namespace {

struct Transfers {
  explicit Transfers(House& house) {
    house.make_transfer = [this, &house](const journal::EngineRecord& engine, const std::string& weight_version)
        -> Result<std::unique_ptr<ranks::Transfer>> {
      ++made;
      label = weight_version;
      CHECK(engine.kind == "vllm");
      return std::make_unique<FakeTransfer>(house.endpoints);
    };
    house.start();
  }
  int made = 0;
  std::string label;
};

void add(House& house, const std::string& kind, const std::string& transfer) {
  REQUIRE(house.operations->put_engine({.name = "e", .kind = kind, .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                                        .transfer = transfer, .follow = false}));
}

}  // namespace

TEST_CASE("an engine is given weights in its own way where it offers one, and where that is wanted") {
  struct Case {
    std::string kind, transfer, offers;
    bool native;
  };
  const auto [kind, transfer, offers, native] =
      GENERATE(Case{"vllm", "auto", "ipc", true}, Case{"vllm", "auto", "nccl", false},
               Case{"vllm", "auto", "", false}, Case{"vllm", "native", "", true},
               Case{"vllm", "checkpoint-engine", "ipc", false}, Case{"sglang", "auto", "ipc", false});
  House house;
  Transfers transfers(house);
  house.behaviour->about.emplace().weight_transfer = offers;
  house.load_or_die("1", 1);
  add(house, kind, transfer);
  const auto job = house.run_update(House::to("1"));
  CHECK(job.state == "succeeded");
  CHECK(transfers.made == (native ? 1 : 0));
  if (native) CHECK(transfers.label == "1");
  CHECK(house.behaviour->calls == (native ? 0 : 1));
  CHECK(house.operations->engine("e")->serving == "m@1");
}

TEST_CASE("nobody waits at the sessions of an engine's own way, so none is written down") {
  House house;
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
