// What becomes of engines over time, with real threads that look at fake servers.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "tests/unit/operations/house.h"
#include "tests/unit/operations/soon.h"

using namespace ckptd;
using namespace ckptd::operations;
using tests::engine;
using tests::House;
using tests::serves;
using tests::soon;
using Seen = fleet::Observation::State;
using namespace std::chrono_literals;

namespace {

bool says(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

/// Long enough for some looks at every engine.
void some_looks(const tests::FakeEngine::Behaviour& behaviour, int count = 5) {
  const int before = behaviour.looks;
  REQUIRE(soon([&] { return behaviour.looks >= before + count; }));
}

/// A house whose engine was given m@1 by itself and serves it.
struct Settled {
  explicit Settled(const std::string& wake = "none", std::chrono::milliseconds retry = {}) {
    if (retry.count() > 0) {
      house.engine_retry = retry;
      house.start();
    }
    house.load_or_die("1", 1);
    house.load_or_die("2", 2);
    house.follow_engine("e", "m@1", wake);
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
    some_looks(*house.behaviour);
    calls = house.behaviour->calls;
  }
  House house;
  int calls = 0;
};

}  // namespace

TEST_CASE("an engine without a target is left alone") {
  House house;
  house.load_or_die("1", 1);
  house.follow_engine();
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == 0);
  const auto shown = engine(house);
  CHECK(shown.state == "waiting");
  CHECK(shown.next == "tell");
  CHECK_FALSE(shown.ready);
  CHECK(says(shown.why, "no target"));
}

TEST_CASE("an engine is brought to its target by itself, whatever was started first") {
  House house;
  SECTION("the version, then the engine") {
    house.load_or_die("1", 1);
    house.follow_engine("e", "m@1");
  }
  SECTION("the engine, then the version") {
    house.follow_engine("e", "m@1");
    REQUIRE(soon([&] { return says(engine(house).why, "load it"); }));
    CHECK(engine(house).next == "tell");
    house.load_or_die("1", 1);
  }
  SECTION("the server comes last") {
    house.behaviour->gone = true;
    house.load_or_die("1", 1);
    house.follow_engine("e", "m@1");
    REQUIRE(soon([&] { return says(engine(house).why, "has not appeared"); }));
    CHECK(engine(house).state == "waiting");
    CHECK(house.behaviour->calls == 0);
    house.behaviour->gone = false;
  }
  SECTION("the server waits for its weights before it is ready") {
    house.behaviour->set_state(Seen::starting);
    house.load_or_die("1", 1);
    house.follow_engine("e", "m@1");
    REQUIRE(soon([&] { return house.behaviour->calls > 0; }));
    house.behaviour->set_state(Seen::serving);
  }
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  CHECK(house.behaviour->calls == 1);
  const auto shown = engine(house);
  CHECK(shown.target == "m@1");
  CHECK(shown.next == "nothing");
  CHECK(shown.own_updates == 1);
  const auto jobs = house.operations->jobs();
  const auto job = std::ranges::find(jobs, "update", &api::Job::kind);
  REQUIRE(job != jobs.end());
  CHECK(says(job->subject, "m@1 -> e, by itself: it was given nothing yet"));
  // The target was a name, and is now a version with its bytes.
  CHECK_FALSE(house.journal->contents().engines[0].target->identity.empty());
}

TEST_CASE("a server that was restarted between two looks is brought back") {
  Settled settled;
  auto& house = settled.house;
  house.behaviour->restart();
  REQUIRE(soon([&] { return house.behaviour->calls == settled.calls + 1 && serves(house, "m@1"); }));
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == settled.calls + 1);
  CHECK(engine(house).restarts == 1);
}

TEST_CASE("without a process to see, a restart is told by the label or by having been away") {
  House house;
  house.behaviour->pid = 0;
  house.load_or_die("1", 1);
  house.follow_engine("e", "m@1");
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  some_looks(*house.behaviour);
  const int calls = house.behaviour->calls;
  SECTION("away, and back with another label") {
    house.behaviour->gone = true;
    REQUIRE(soon([&] { return engine(house).state == "gone"; }));
    CHECK_FALSE(engine(house).ready);
    house.behaviour->set_label("default");
    house.behaviour->gone = false;
    REQUIRE(soon([&] { return house.behaviour->calls == calls + 1 && serves(house, "m@1"); }));
  }
  SECTION("away, and back with the same label: the same server") {
    house.behaviour->gone = true;
    REQUIRE(soon([&] { return engine(house).state == "gone"; }));
    house.behaviour->gone = false;
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
    some_looks(*house.behaviour);
    CHECK(house.behaviour->calls == calls);
  }
  SECTION("away, and back without any label") {
    house.behaviour->gone = true;
    REQUIRE(soon([&] { return engine(house).state == "gone"; }));
    house.behaviour->tells_label = false;
    house.behaviour->gone = false;
    REQUIRE(soon([&] { return house.behaviour->calls == calls + 1 && serves(house, "m@1"); }));
  }
}

TEST_CASE("what others do to an engine is told and not undone") {
  Settled settled;
  auto& house = settled.house;
  house.behaviour->set_label("by hand");
  REQUIRE(soon([&] { return engine(house).state == "waiting"; }));
  auto shown = engine(house);
  CHECK(shown.next == "tell");
  CHECK(shown.serving.empty());
  CHECK_FALSE(shown.ready);
  CHECK(says(shown.why, "somebody else changed its weights"));
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == settled.calls);
  SECTION("an update takes it back") {
    CHECK(house.run_update(House::to("1")).state == "succeeded");
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
  }
  SECTION("a restart takes away what they did") {
    house.behaviour->restart();
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
  }
}

TEST_CASE("a new version changes nothing until somebody says so") {
  Settled settled;
  auto& house = settled.house;
  house.load_or_die("3", 3);
  house.behaviour->restart();
  REQUIRE(soon([&] { return house.behaviour->calls == settled.calls + 1 && serves(house, "m@1"); }));
  std::lock_guard lock(house.behaviour->mutex);
  CHECK(house.behaviour->last_call.weight_version == "1");
}

TEST_CASE("a daemon that comes back leaves a healthy engine alone and heals one that was restarted meanwhile") {
  Settled settled;
  auto& house = settled.house;
  const bool restarted = GENERATE(false, true);
  house.jobs->shutdown();
  house.operations->stop_watching();
  if (restarted) house.behaviour->restart();
  house.start();
  house.load_or_die("1", 1);
  some_looks(*house.behaviour);
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  CHECK(house.behaviour->calls == settled.calls + (restarted ? 1 : 0));
}

TEST_CASE("a poisoned engine is brought to the last good version, not at once and not without end") {
  Settled settled("none", 300ms);
  auto& house = settled.house;
  house.endpoints.fail_reload_on = "HOST-1";
  const auto start = Clock::now();
  CHECK(house.run_update(House::to("2")).state == "failed");
  SECTION("its own attempts fail as well: they become seldom") {
    REQUIRE(soon([&] { return engine(house).own_failures >= 3; }));
    CHECK(Clock::now() - start >= 2100ms);  // 300, 600 and 1200 ms after failures
    CHECK_FALSE(engine(house).poisoned.empty());
  }
  SECTION("the ranks recover") {
    house.endpoints.fail_reload_on.clear();
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
    CHECK(engine(house).last_error.empty());
    CHECK(engine(house).previous.empty());
  }
  SECTION("its server is restarted: what it holds is no mixture any more") {
    house.endpoints.fail_reload_on.clear();
    house.behaviour->restart();
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
  }
}

TEST_CASE("until the next attempt a poisoned engine tells what it was to have and why it does not") {
  Settled settled("none", 60s);  // beyond the end of this test
  auto& house = settled.house;
  house.endpoints.fail_reload_on = "HOST-1";
  CHECK(house.run_update(House::to("2")).state == "failed");
  const auto shown = engine(house);
  CHECK(shown.state == "poisoned");
  CHECK(shown.target == "m@1");  // an update moves it when it succeeds
  CHECK_FALSE(shown.ready);
  CHECK(says(shown.last_error, "HOST-1"));
}

TEST_CASE("an engine whose trigger somebody else holds is watched and never touched") {
  House house;
  house.load_or_die("1", 1);
  house.load_or_die("2", 2);
  house.add_engine();
  CHECK(house.run_update(House::to("1")).state == "succeeded");
  some_looks(*house.behaviour);
  CHECK(serves(house, "m@1"));
  house.behaviour->restart();
  REQUIRE(soon([&] { return engine(house).state == "waiting"; }));
  CHECK(engine(house).next == "tell");
  REQUIRE(house.operations->change_engine("e", {"m@2"}));
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == 1);
  CHECK(says(engine(house).why, "ckptctl update m@2"));
}

TEST_CASE("engine set moves the target at once and the engine follows") {
  Settled settled;
  auto& house = settled.house;
  REQUIRE(house.operations->change_engine("e", {"m@2"}));
  CHECK(engine(house).target == "m@2");
  REQUIRE(soon([&] { return serves(house, "m@2"); }));
  CHECK(engine(house).previous == "m@1");
  CHECK(house.operations->change_engine("e", {"n@2"}).error().kind == ErrorKind::conflict);
  CHECK(house.operations->change_engine("e", {"m"}).error().kind == ErrorKind::invalid_argument);
  CHECK(house.operations->change_engine("x", {"m@2"}).error().kind == ErrorKind::not_found);
  SECTION("to what is not there: it serves on, and says what is missing") {
    REQUIRE(house.operations->change_engine("e", {"m@9"}));
    REQUIRE(soon([&] { return says(engine(house).why, "m@9 is not resident"); }));
    CHECK(serves(house, "m@2"));
    CHECK(engine(house).next == "tell");
  }
}

TEST_CASE("the configuration seeds a target once") {
  Settled settled;
  auto& house = settled.house;
  REQUIRE(house.operations->change_engine("e", {"m@2"}));
  REQUIRE(soon([&] { return serves(house, "m@2"); }));
  house.follow_engine("e", "m@1");  // as at the next start
  CHECK(engine(house).target == "m@2");
  some_looks(*house.behaviour);
  CHECK(serves(house, "m@2"));
  CHECK(house.operations
            ->put_engine({.name = "f", .kind = "sglang", .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                          .target = "other@1"})
            .error()
            .kind == ErrorKind::conflict);
  CHECK(house.operations
            ->put_engine({.name = "f", .kind = "sglang", .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                          .wake = "some"})
            .error()
            .kind == ErrorKind::invalid_argument);
  // It does not tell that it sleeps.
  CHECK(house.operations
            ->put_engine({.name = "f", .kind = "sglang", .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                          .wake = "weights"})
            .error()
            .kind == ErrorKind::unsupported);
}

TEST_CASE("a rollback goes back to what was served before, and again forward") {
  Settled settled;
  auto& house = settled.house;
  CHECK(house.operations->roll_back({}).error().kind == ErrorKind::not_found);
  CHECK(house.run_update(House::to("2")).state == "succeeded");
  for (const auto* version : {"m@1", "m@2"}) {
    auto job = house.operations->roll_back({.engines = {"e"}, .force = false, .idempotency_key = {}});
    REQUIRE(job);
    CHECK(says(job->subject, "a rollback"));
    CHECK(engine(house).target == version);
    REQUIRE(house.operations->wait_job(job->id, Deadline::in(10s)));
    REQUIRE(soon([&] { return serves(house, version); }));
  }
  REQUIRE(house.operations->evict("m", "1", false));
  const auto gone = house.operations->roll_back({});
  REQUIRE_FALSE(gone);
  CHECK(gone.error().kind == ErrorKind::not_found);
  CHECK(says(gone.error().sentence, "ckptctl load m@1 DIR"));
  CHECK(engine(house).target == "m@2");
}

TEST_CASE("nothing is pushed to an engine out of service, and its NAME moves on without it") {
  Settled settled;
  auto& house = settled.house;
  house.own_server("f");
  house.follow_engine("f", "m@1");
  REQUIRE(soon([&] { return serves(house, "m@1", "f"); }));
  REQUIRE(house.operations->set_drained("e", true));
  CHECK(engine(house).state == "draining");
  CHECK_FALSE(engine(house).ready);
  auto named = House::to("2");
  named.engines = {"e"};
  const auto refused = house.operations->update(named);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(says(refused.error().sentence, "ckptctl undrain e"));

  CHECK(house.run_update(House::to("2")).state == "succeeded");
  REQUIRE(soon([&] { return serves(house, "m@2", "f"); }));
  CHECK(engine(house).serving == "m@1");
  CHECK(engine(house).target == "m@2");
  const int calls = house.behaviour->calls;
  house.start();  // persisted
  house.load_or_die("2", 2);
  some_looks(*house.behaviour);
  CHECK(engine(house).state == "draining");
  CHECK(house.behaviour->calls == calls);
  REQUIRE(house.operations->set_drained("e", false));
  REQUIRE(soon([&] { return serves(house, "m@2"); }));
  CHECK(house.operations->set_drained("x", true).error().kind == ErrorKind::not_found);
}

TEST_CASE("a node out of service is not ready, and nothing of it is updated") {
  Settled settled;
  auto& house = settled.house;
  REQUIRE(house.operations->set_node_drained(true));
  auto status = house.operations->status();
  CHECK(status.drained);
  CHECK_FALSE(status.ready);
  CHECK(status.engines[0].state == "draining");
  const auto refused = house.operations->update(House::to("2"));
  REQUIRE_FALSE(refused);
  CHECK(says(refused.error().sentence, "undrain --all"));
  house.behaviour->restart();
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == settled.calls);
  REQUIRE(house.operations->set_node_drained(false));
  REQUIRE(soon([&] { return house.behaviour->calls == settled.calls + 1 && serves(house, "m@1"); }));
  CHECK(house.operations->status().ready);
}

TEST_CASE("a sleeping engine is not pushed into, and given its weights again when it is awake") {
  Settled settled;
  auto& house = settled.house;
  house.behaviour->set_state(Seen::asleep);
  REQUIRE(soon([&] { return engine(house).state == "asleep"; }));
  CHECK_FALSE(engine(house).ready);
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == settled.calls);
  const auto by_hand = house.run_update(House::to("2"));
  CHECK(by_hand.state == "failed");
  CHECK(says(by_hand.error->sentence, "is asleep"));
  CHECK(house.behaviour->calls == settled.calls);
  CHECK(engine(house).poisoned.empty());
  house.behaviour->set_state(Seen::serving);
  REQUIRE(soon([&] { return house.behaviour->calls == settled.calls + 1 && serves(house, "m@1"); }));
}

TEST_CASE("a sleeping engine is woken for another version, if that is allowed, and never for the old one") {
  const auto wake = GENERATE(as<std::string>(), "weights", "all");
  Settled settled(wake);
  auto& house = settled.house;
  house.behaviour->set_state(Seen::asleep);
  REQUIRE(soon([&] { return engine(house).state == "asleep"; }));
  some_looks(*house.behaviour);
  CHECK(house.behaviour->wakes == 0);
  CHECK(house.behaviour->calls == settled.calls);
  REQUIRE(house.operations->change_engine("e", {"m@2"}));
  REQUIRE(soon([&] { return engine(house).serving == "m@2"; }));
  CHECK(house.behaviour->wakes == 1);
  CHECK(house.behaviour->full_wakes == (wake == "all" ? 1 : 0));
  some_looks(*house.behaviour);
  CHECK(house.behaviour->calls == settled.calls + 1);
  CHECK(engine(house).state == (wake == "all" ? "serving" : "asleep"));
}

TEST_CASE("a server that comes back asleep, as it was started, is given its weights again") {
  Settled settled("all");
  auto& house = settled.house;
  SECTION("once") {}
  SECTION("though somebody had put the one before it to sleep") {
    house.behaviour->set_state(Seen::asleep);
    REQUIRE(soon([&] { return engine(house).state == "asleep"; }));
    some_looks(*house.behaviour);
    CHECK(house.behaviour->calls == settled.calls);
  }
  for (int times = 1; times <= 2; ++times) {
    house.behaviour->restart(Seen::asleep);
    REQUIRE(soon([&] { return house.behaviour->calls == settled.calls + times && serves(house, "m@1"); }));
    CHECK(house.behaviour->full_wakes == times);
  }
}

TEST_CASE("a server that stalls delays neither another engine nor the end of the daemon") {
  House house;
  const bool is_removed = GENERATE(true, false);
  house.ping_timeout = is_removed ? 3s : 300ms;
  house.start();
  const auto slow = house.own_server("slow");
  slow->stalls = true;
  house.load_or_die("1", 1);
  house.follow_engine("slow", "m@1");
  REQUIRE(soon([&] { return slow->looks > 0; }));
  house.follow_engine("e", "m@1");
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  CHECK(slow->calls == 0);
  if (!is_removed) {
    CHECK(soon([&] { return says(engine(house, "slow").why, "no answer"); }));
    return;
  }
  const auto start = Clock::now();
  CHECK(house.operations->remove_engine("slow"));
  CHECK(Clock::now() - start < 2500ms);  // nobody waits for its answer
}

TEST_CASE("what a server tells of its start is shown, and one that cannot be updated is not") {
  House house;
  auto& about = house.behaviour->about.emplace();
  about.version = "0.5.9";
  about.warnings = {"it gives up waiting after 120 s"};
  SECTION("a warning") {
    house.load_or_die("1", 1);
    house.follow_engine("e", "m@1");
    REQUIRE(soon([&] { return serves(house, "m@1"); }));
  }
  SECTION("unsuitable") {
    about.unsuitable = Error{ErrorKind::unsupported, "it runs with --dp-size 2"};
    house.load_or_die("1", 1);
    house.follow_engine("e", "m@1");
    REQUIRE(soon([&] { return says(engine(house).why, "--dp-size"); }));
    CHECK(engine(house).next == "tell");
    CHECK(house.behaviour->calls == 0);
  }
  CHECK(engine(house).server == "0.5.9");
  REQUIRE(engine(house).warnings.size() == 1);
}

TEST_CASE("an update that cannot begin is tried again, less and less often, and told") {
  House house;
  house.endpoints.uncarriable = "torch has no type for it";
  house.load_or_die("1", 1);
  house.follow_engine("e", "m@1");
  REQUIRE(soon([&] { return says(engine(house).last_error, "torch has no type"); }));
  CHECK(engine(house).state == "waiting");
  const auto shown = engine(house);
  if (shown.next == "wait") CHECK(says(shown.why, "the next attempt is at"));
  house.endpoints.uncarriable.clear();
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  CHECK(engine(house).last_error.empty());
}

TEST_CASE("engines come, change and go while they are looked at") {
  House house;
  house.load_or_die("1", 1);
  for (int round = 0; round < 20; ++round) {
    house.follow_engine("e", "m@1");
    house.follow_engine("f");
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    auto removed = house.operations->remove_engine("f");
    CHECK(removed);
    removed = house.operations->remove_engine("e");
    if (removed) continue;
    CHECK(removed.error().kind == ErrorKind::busy);
    REQUIRE(soon([&] { return house.operations->remove_engine("e").has_value(); }));
  }
  CHECK(house.operations->engines().empty());
}
