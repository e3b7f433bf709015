// Where engines should be: what an order moves, what a failure leaves alone, who is not waited for, and whose turn it is.
#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>

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

bool says(const std::string& text, std::string_view word) {
  INFO(text);
  return text.find(word) != std::string::npos;
}

/// m@1 and m@2 in the store, and engines with servers of their own that serve m@2 and had m@1 before.
struct Fleet : House {
  explicit Fleet(const std::vector<std::string>& names, std::chrono::milliseconds retry = 50ms) {
    engine_retry = retry;
    start();
    load_or_die("1", 1);
    load_or_die("2", 2);
    for (const auto& name : names) {
      own_server(name);
      follow_engine(name, "m@1");
    }
    for (const auto& name : names) REQUIRE(soon([&] { return serves(*this, "m@1", name); }));
    auto request = to("2");
    request.max_unavailable = 0;
    REQUIRE(run_update(request).state == "succeeded");
    for (const auto& name : names) REQUIRE(soon([&] { return serves(*this, "m@2", name); }));
  }
};

}  // namespace

TEST_CASE("an order stands when its push fails and the version before it is given again") {
  Fleet house({"e"}, 60s);  // by itself nothing more happens here
  house.endpoints.fail_reload_on = "HOST-0";
  house.endpoints.fail_reloads = 1;
  SECTION("a rollback") {
    const auto job = house.operations->roll_back({});
    REQUIRE(job);
    const auto ended = house.operations->wait_job(job->id, Deadline::in(10s));
    REQUIRE(ended);
    CHECK(ended->state == "failed");
    CHECK(says(ended->error->sentence, "it was given m@2 again"));
  }
  SECTION("another target") {
    REQUIRE(house.operations->change_engine("e", {"m@1"}));
    REQUIRE(soon([&] { return engine(house).own_failures == 1; }));
  }
  const auto shown = engine(house);
  CHECK(shown.serving == "m@2");
  CHECK(shown.target == "m@1");
}

TEST_CASE("a rollback that is repeated, since its answer was lost, is the same one") {
  Fleet house({"e"});
  const auto first = house.operations->roll_back({.engines = {}, .idempotency_key = "k"});
  REQUIRE(first);
  REQUIRE(house.operations->wait_job(first->id, Deadline::in(10s))->state == "succeeded");
  const auto again = house.operations->roll_back({.engines = {}, .idempotency_key = "k"});
  REQUIRE(again);
  CHECK(again->id == first->id);
  CHECK(engine(house).target == "m@1");
  const auto forward = house.operations->roll_back({.engines = {}, .idempotency_key = "l"});
  REQUIRE(forward);
  CHECK(house.operations->wait_job(forward->id, Deadline::in(10s))->state == "succeeded");
  CHECK(engine(house).target == "m@2");
}

TEST_CASE("an engine that the daemon is at by itself delays nobody, and follows") {
  Fleet house({"a", "b"});
  const auto server = house.behaviour_of("a");
  server->never_answers = true;
  server->restart();
  std::string own;
  REQUIRE(soon([&] { return !(own = engine(house, "a").job).empty(); }));

  auto named = House::to("1");
  named.engines = {"a", "b"};
  CHECK(house.operations->update(named).error().kind == ErrorKind::busy);  // it was wanted by its name
  named.engines = {"a"};
  CHECK(house.operations->update(named).error().kind == ErrorKind::busy);

  const auto job = house.run_update(House::to("1"));
  CHECK(job.state == "succeeded");
  CHECK(job.subject == "m@1 -> b");
  CHECK(says(job.result, "engine a is left out"));
  CHECK(serves(house, "m@1", "b"));
  CHECK(engine(house, "a").target == "m@1");
  CHECK(engine(house, "a").job == own);
  server->never_answers = false;  // its own update ends, to m@2, and does not move the target back
  REQUIRE(soon([&] { return serves(house, "m@1", "a"); }));
  CHECK(engine(house, "a").target == "m@1");

  // When there is nobody else, it is said whom to wait for.
  house.operations->set_drained("b", true);
  server->never_answers = true;
  server->restart();
  REQUIRE(soon([&] { return engine(house, "a").state == "updating"; }));
  CHECK(house.operations->update(House::to("2")).error().kind == ErrorKind::busy);
  server->never_answers = false;
}

TEST_CASE("an engine that serves while the daemon is at it takes its place, and is not left out") {
  Fleet house({"a", "b"});
  const auto server = house.behaviour_of("a");
  server->never_answers = true;
  REQUIRE(house.operations->change_engine("a", {"m@1"}));
  REQUIRE(soon([&] { return !engine(house, "a").job.empty(); }));
  auto request = House::to("1");
  request.max_unavailable = 1;
  CHECK(house.operations->update(request).error().kind == ErrorKind::busy);
  CHECK(serves(house, "m@2", "b"));
  server->never_answers = false;
  REQUIRE(soon([&] { return serves(house, "m@1", "a"); }));
}

TEST_CASE("what is ordered of an engine that was left out is not undone by the update that left it out") {
  Fleet house({"a", "b"});
  house.load_or_die("3", 3);
  const auto a = house.behaviour_of("a"), b = house.behaviour_of("b");
  a->never_answers = true;
  a->restart();
  REQUIRE(soon([&] { return !engine(house, "a").job.empty(); }));
  b->never_answers = true;
  const auto job = house.operations->update(House::to("3"));
  REQUIRE(job);
  a->never_answers = false;
  REQUIRE(soon([&] { return serves(house, "m@2", "a"); }));
  REQUIRE(house.operations->change_engine("a", {"m@1"}));
  b->never_answers = false;
  REQUIRE(house.operations->wait_job(job->id, Deadline::in(10s))->state == "succeeded");
  CHECK(engine(house, "a").target == "m@1");
  REQUIRE(soon([&] { return serves(house, "m@1", "a"); }));
}

TEST_CASE("a request that meets what the daemon does by itself joins it while that is where the engine should be") {
  Fleet house({"a", "b"});
  const auto server = house.behaviour_of("a");
  server->never_answers = true;
  server->restart();
  REQUIRE(soon([&] { return !engine(house, "a").job.empty(); }));
  auto same = House::to("2");
  same.engines = {"a"};
  const auto joined = house.operations->update(same);
  REQUIRE(joined);
  CHECK(joined->id == engine(house, "a").job);
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");  // of b, and a is to follow
  REQUIRE(engine(house, "a").target == "m@1");
  CHECK(house.operations->update(same).error().kind == ErrorKind::busy);
  server->never_answers = false;
  REQUIRE(soon([&] { return serves(house, "m@1", "a"); }));
}

TEST_CASE("a second rollback while the first is ending is the first") {
  Fleet house({"e"});
  std::optional<std::string> second;
  const auto server = house.behaviour_of("e");
  server->set_checksums({{"tp0", {{"a", "1"}}}});
  server->while_summing = [&] {  // its success is written down by now
    if (second) return;
    const auto again = house.operations->roll_back({});
    second = again ? again->id : again.error().sentence;
  };
  const auto first = house.operations->roll_back({});
  REQUIRE(first);
  REQUIRE(house.operations->wait_job(first->id, Deadline::in(10s))->state == "succeeded");
  CHECK(second == first->id);
  CHECK(engine(house).target == "m@1");
}

TEST_CASE("by themselves engines that serve leave service one at a time") {
  Fleet house({"a", "b", "c"});
  const auto stuck = house.behaviour_of("b");
  stuck->never_answers = true;
  for (const auto* name : {"b", "a", "c"}) REQUIRE(house.operations->change_engine(name, {"m@1"}));
  REQUIRE(soon([&] { return engine(house, "b").state == "updating" || serves(house, "m@1", "a"); }));
  REQUIRE(soon([&] { return engine(house, "b").state == "updating"; }));
  std::vector<std::string> waiting;
  for (const auto* name : {"a", "c"})
    if (const auto shown = engine(house, name); shown.serving == "m@2") {
      CHECK(shown.ready);
      CHECK(shown.next == "wait");
      CHECK(says(shown.why, "waits until engine b has been updated"));
    }
  // One that serves nobody has nothing to wait for.
  const auto c = house.behaviour_of("c");
  c->restart();
  REQUIRE(soon([&] { return serves(house, "m@1", "c"); }));
  CHECK(engine(house, "b").state == "updating");
  stuck->never_answers = false;
  for (const auto* name : {"a", "b", "c"}) REQUIRE(soon([&] { return serves(house, "m@1", name); }));
}

TEST_CASE("one that was left with a mixture does not hold up the others") {
  Fleet house({"a", "b"}, 60s);
  auto poison = House::to("2");
  poison.engines = {"a"};
  poison.on_failure = "hold";
  house.endpoints.fail_reload_on = "HOST-1";
  REQUIRE(house.run_update(poison).state == "failed");
  house.endpoints.fail_reload_on.clear();
  REQUIRE(engine(house, "a").state == "poisoned");
  REQUIRE(house.operations->change_engine("b", {"m@1"}));
  REQUIRE(soon([&] { return serves(house, "m@1", "b"); }));
  CHECK(engine(house, "a").state == "poisoned");
}

TEST_CASE("what breaks off within an update is its failure, and the engine can be updated again") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  house.endpoints.on_open = [] { throw std::runtime_error("no thread for this"); };
  const auto job = house.run_update(House::to("1"));
  CHECK(job.state == "failed");
  CHECK(says(job.error->sentence, "no thread for this"));
  CHECK(engine(house).poisoned.empty());
  house.endpoints.on_open = {};
  CHECK(house.run_update(House::to("1")).state == "succeeded");
}

TEST_CASE("a server whose ranks do not go with the devices is not updated") {
  House house;
  house.load_or_die("1", 1);
  auto& about = house.behaviour->about.emplace();
  about.ranks = 2;
  house.follow_engine("e", "m@1");  // both devices
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  {
    std::lock_guard lock(house.behaviour->mutex);
    house.behaviour->about->ranks = 4;
  }
  house.behaviour->restart();
  REQUIRE(soon([&] { return says(engine(house).why, "it has 4 ranks, and is registered with 2 devices"); }));
  CHECK(house.behaviour->calls == 1);
  const auto refused = house.operations->update(House::to("1"));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(says(refused.error().sentence, "engine e cannot be updated: it has 4 ranks"));
  auto forced = House::to("1");
  forced.force = true;
  CHECK(house.run_update(forced).state == "succeeded");
}

TEST_CASE("a process that could not be told during an update is not forgotten") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  REQUIRE(house.journal->contents().engines[0].listener == ProcessId{7, 1});
  house.behaviour->pid = 0;
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(house.journal->contents().engines[0].listener == ProcessId{7, 1});
  house.behaviour->pid = 8;  // so that what was started again since is not taken for what somebody else has changed
  REQUIRE(soon([&] { return says(house.journal->contents().engines[0].lost, "restarted"); }));
}

TEST_CASE("a sleep while there was no daemon is found out") {
  House house;
  house.load_or_die("1", 1);
  house.follow_engine("e", "m@1", "weights");
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  house.jobs->shutdown();
  house.operations->stop_watching();
  house.behaviour->set_state(Seen::asleep);
  house.start();
  REQUIRE(soon([&] { return says(house.journal->contents().engines[0].lost, "memory was released"); }));
  house.load_or_die("1", 1);
  house.behaviour->set_state(Seen::serving);
  REQUIRE(soon([&] { return house.behaviour->calls == 2 && serves(house, "m@1"); }));
}

TEST_CASE("one that was given its version asleep has it when it is woken, whatever became of the daemon") {
  House house;
  house.behaviour->set_state(Seen::asleep);
  house.load_or_die("1", 1);
  house.follow_engine("e", "m@1", "weights");
  REQUIRE(soon([&] { return house.behaviour->calls == 1 && engine(house).serving == "m@1"; }));
  REQUIRE(soon([&] { return engine(house).state == "asleep"; }));
  house.jobs->shutdown();
  house.operations->stop_watching();
  house.start();
  REQUIRE(soon([&] { return engine(house).state == "asleep"; }));
  house.load_or_die("1", 1);
  house.behaviour->set_state(Seen::serving);
  REQUIRE(soon([&] { return serves(house, "m@1"); }));
  CHECK(house.behaviour->calls == 1);
  REQUIRE(soon([&] { return !house.journal->contents().engines[0].given_asleep; }));
}

TEST_CASE("a LMDeploy that was left within its pause is woken for its weights") {
  House house;
  house.load_or_die("1", 1);
  REQUIRE(house.operations->put_engine({.name = "e", .kind = "lmdeploy", .endpoint = "http://127.0.0.1:1", .checkpoint = "m",
                                        .devices = {}, .follow = false}));
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  REQUIRE(house.journal->change([](journal::Contents& contents) {
    contents.engines[0].paused = "abort";
    contents.engines[0].poisoned = "x";
  }));
  house.behaviour->set_state(Seen::asleep);
  house.behaviour->heard.clear();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(house.behaviour->heard == std::vector<std::string>{"wake weights", "update to 1", "conclude", "resume"});
}
