// What is around a push: pausing, the last good version again, resuming.
#include <catch2/catch.hpp>

#include "daemon/operations/rolling.h"
#include "tests/unit/operations/house.h"

using namespace ckptd;
using namespace ckptd::tests;
using Calls = std::vector<std::string>;

namespace {

bool says(const Error& error, std::string_view part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

/// An engine that was given m@1, and m@2 beside it.
struct Given : House {
  explicit Given(const std::string& on_failure = "repush") {
    load_or_die("1", 1);
    load_or_die("2", 2);
    add_engine("e", {"HOST-0"}, on_failure);
    REQUIRE(run_update(to("1")).state == "succeeded");
    behaviour->heard.clear();
  }

  journal::EngineRecord record() const { return journal->contents().engines.front(); }
};

}  // namespace

TEST_CASE("requests are stopped before the engine is called, and go on when it holds the version") {
  Given house;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "succeeded");
  CHECK(house.behaviour->heard == Calls{"pause retract", "update to 2", "conclude", "resume"});
  CHECK(house.record().paused.empty());
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::serving));
}

TEST_CASE("an update says how it pauses and what the engine tells, for itself alone") {
  Given house;
  auto request = House::to("2");
  request.pause = "in_place";
  request.flush_cache = false;
  request.weight_version = "step 7";
  REQUIRE(house.run_update(request).state == "succeeded");
  CHECK(house.behaviour->heard == Calls{"pause in_place", "update to step 7", "conclude", "resume"});
  CHECK_FALSE(house.behaviour->last_call.flush_cache);
  CHECK(house.operations->engine("e")->label == "step 7");
  CHECK(house.record().pause == "auto");
}

TEST_CASE("what contradicts itself is refused before anything is touched") {
  Given house;
  struct Row {
    std::optional<std::string> pause, on_failure;
    std::string words;
  };
  for (const auto& row : std::vector<Row>{{"in_place", std::nullopt, "--keep-cache"},
                                          {"keep", std::nullopt, "cannot pause with keep"},
                                          {"sometimes", std::nullopt, "write none, abort"},
                                          {std::nullopt, "hope", "write repush or hold"}}) {
    auto request = House::to("2");
    request.pause = row.pause;
    request.on_failure = row.on_failure;
    const auto job = house.operations->update(request);
    REQUIRE_FALSE(job);
    CHECK(job.error().kind == ErrorKind::invalid_argument);
    CHECK(says(job.error(), row.words));
  }
  CHECK(house.behaviour->heard.empty());
}

TEST_CASE("a mixture is healed with the last good version, once, and then requests go on") {
  Given house;
  house.endpoints.fail_reload_on = "HOST-0";
  house.endpoints.fail_reloads = 1;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  REQUIRE(job.error);
  CHECK(says(*job.error, "it was given m@1 again, and holds that"));
  CHECK(house.behaviour->heard == Calls{"pause retract", "update to 2", "update to 1", "conclude", "resume"});
  const auto engine = house.operations->engine("e");
  CHECK(engine->serving == "m@1");
  CHECK(engine->poisoned.empty());
  CHECK(engine->paused.empty());
  REQUIRE(job.record);
  CHECK(job.record->engines.size() == 2);
}

TEST_CASE("an engine that stays a mixture stays paused, until an update heals it") {
  const std::string on_failure = GENERATE("repush", "hold");
  Given house(on_failure);
  house.endpoints.fail_reload_on = "HOST-0";
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "it stays paused"));
  CHECK(house.behaviour->resumes == 1);  // that of the first update
  CHECK(house.behaviour->calls == (on_failure == "hold" ? 2 : 3));
  auto engine = house.operations->engine("e");
  CHECK(engine->state == "poisoned");
  CHECK(engine->paused == "retract");
  CHECK(engine->held == (on_failure == "hold"));
  CHECK_FALSE(engine->ready);

  house.endpoints.fail_reload_on = "";
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  engine = house.operations->engine("e");
  CHECK(engine->serving == "m@2");
  CHECK(engine->paused.empty());
  CHECK_FALSE(engine->held);
  CHECK(house.behaviour->resumes == 2);
}

TEST_CASE("a mixture that cannot be written down is one all the same") {
  const std::string on_failure = GENERATE("repush", "hold");
  Given house(on_failure);
  const auto in_the_way = house.folder / "state/state.json.new";
  house.endpoints.fail_reload_on = "HOST-0";
  house.endpoints.on_raise = [&] { std::filesystem::create_directory(in_the_way); };  // of every write from then on
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "it stays paused"));
  CHECK(house.behaviour->resumes == 1);  // that of the first update
  auto engine = house.operations->engine("e");
  CHECK(engine->state == "poisoned");
  CHECK_FALSE(engine->ready);
  CHECK(engine->held == (on_failure == "hold"));

  std::filesystem::remove(in_the_way);
  house.endpoints.fail_reload_on = "";
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  CHECK(house.operations->engine("e")->serving == "m@2");
  CHECK(house.journal->contents().updates.empty());
  CHECK(house.behaviour->resumes == 2);
}

TEST_CASE("a server that does not tell that it is paused is resumed by whatever update heals it") {
  Given house("hold");
  house.behaviour->tells_pause = false;
  house.endpoints.fail_reload_on = "HOST-0";
  REQUIRE(house.run_update(House::to("2")).state == "failed");
  REQUIRE(house.record().paused == "retract");
  house.endpoints.fail_reload_on = "";
  house.behaviour->heard.clear();
  auto request = House::to("2");
  SECTION("one that pauses") {
    REQUIRE(house.run_update(request).state == "succeeded");
    CHECK(house.behaviour->heard == Calls{"pause retract", "update to 2", "conclude", "resume"});
  }
  SECTION("one that does not") {
    request.pause = "none";
    REQUIRE(house.run_update(request).state == "succeeded");
    CHECK(house.behaviour->heard == Calls{"update to 2", "conclude", "resume"});
  }
  CHECK(house.record().paused.empty());
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::serving));
}

TEST_CASE("that a server was paused is not forgotten because it is another one than was given its weights") {
  Given house("hold");
  house.behaviour->restart();
  house.endpoints.fail_reload_on = "HOST-0";
  const auto job = house.run_update(House::to("2"));
  CHECK(says(*job.error, "it stays paused"));
  CHECK(house.record().paused == "retract");
  CHECK(house.operations->engine("e")->paused == "retract");
  house.endpoints.fail_reload_on = "";
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  CHECK(house.record().paused.empty());
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::serving));
}

TEST_CASE("a mixture that cannot be paused once more stays paused") {
  Given house("hold");
  house.behaviour->tells_pause = false;
  house.endpoints.fail_reload_on = "HOST-0";
  REQUIRE(house.run_update(House::to("2")).state == "failed");
  house.behaviour->heard.clear();
  house.behaviour->pause_fails = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "could not be paused"));
  CHECK(house.behaviour->heard == Calls{"pause retract"});
  CHECK(house.record().paused == "retract");
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::paused));
}

TEST_CASE("an engine that was not touched goes on at once") {
  Given house;
  house.endpoints.connect = false;
  house.behaviour->refuses = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(house.behaviour->heard == Calls{"pause retract", "update to 2", "resume"});
  CHECK(house.operations->engine("e")->serving == "m@1");
  CHECK(house.record().paused.empty());
}

TEST_CASE("an engine that does not pause is given nothing, and is resumed in case it did") {
  Given house;
  house.behaviour->pause_fails = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "could not be paused (retract), so it was given nothing"));
  CHECK(house.behaviour->heard == Calls{"pause retract", "resume"});
  CHECK(house.record().paused.empty());
  CHECK(house.operations->engine("e")->poisoned.empty());
}

TEST_CASE("an engine that has no such call is updated all the same, with a warning, unless a pause was asked for") {
  Given house;
  house.behaviour->cannot_pause = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "succeeded");
  CHECK(job.result.find("requests are not paused") != std::string::npos);
  auto request = House::to("1");
  request.pause = "abort";
  const auto asked = house.run_update(request);
  CHECK(asked.state == "failed");
  CHECK(asked.error->kind == ErrorKind::unsupported);
  CHECK(house.record().paused.empty());
  CHECK(house.operations->engine("e")->serving == "m@2");
}

TEST_CASE("without a pause status says what that means") {
  Given house;
  auto request = proto::control::EngineRequest{.name = "e", .kind = "sglang", .endpoint = "http://127.0.0.1:1",
                                               .checkpoint = "m", .devices = {"HOST-0"}, .follow = false, .pause = "none"};
  REQUIRE(house.operations->put_engine(request));
  house.behaviour->heard.clear();
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  CHECK(house.behaviour->heard == Calls{"update to 2", "conclude"});
  const auto warnings = house.operations->status().warnings;
  CHECK(std::ranges::any_of(warnings, [](const auto& text) { return text.find("engine e is not paused") == 0; }));
}

TEST_CASE("a pause of somebody else's is found and left") {
  Given house;
  house.behaviour->set_state(fleet::Observation::State::paused);
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  CHECK(house.behaviour->heard == Calls{"update to 2", "conclude"});
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::paused));
}

TEST_CASE("an engine whose cache could not be flushed counts as one that may answer with a mixture") {
  Given house("hold");
  house.behaviour->conclude_fails = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "every rank took all weights, but the update could not be concluded"));
  CHECK_FALSE(house.operations->engine("e")->poisoned.empty());
}

TEST_CASE("an engine that could not be resumed is resumed later, also by the next daemon") {
  Given house;
  house.behaviour->resume_fails = true;
  const auto job = house.run_update(House::to("2"));
  CHECK(job.state == "failed");
  CHECK(says(*job.error, "holds m@2 in full"));
  CHECK(says(*job.error, "could not be resumed"));
  CHECK(house.operations->engine("e")->paused == "retract");
  const bool by_the_next = GENERATE(false, true);
  if (by_the_next) house.start();
  house.behaviour->resume_fails = false;
  const auto deadline = Deadline::in(10s);
  while (!house.record().paused.empty() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  CHECK(house.record().paused.empty());
  CHECK(house.behaviour->state == static_cast<int>(fleet::Observation::State::serving));
  CHECK(house.operations->engine("e")->serving == "m@2");
}

TEST_CASE("engines that serve are updated one after the other, those that serve nobody at once") {
  std::mutex mutex;
  int running = 0, most_serving = 0, serving_now = 0;
  const std::vector<bool> serves{true, true, false, true, false};
  const auto update = [&](std::size_t i) {
    {
      std::lock_guard lock(mutex);
      ++running;
      if (serves[i]) most_serving = std::max(most_serving, ++serving_now);
    }
    std::this_thread::sleep_for(5ms);
    std::lock_guard lock(mutex);
    if (serves[i]) --serving_now;
    return true;
  };
  CHECK(operations::roll(serves, std::nullopt, update, [](auto) { return false; }, {}).empty());
  CHECK(running == 5);
  CHECK(most_serving == 1);
}

TEST_CASE("when one has failed and serves nobody, the others keep what they have") {
  std::vector<std::size_t> begun;
  std::mutex mutex;
  const auto update = [&](std::size_t i) {
    std::lock_guard lock(mutex);
    begun.push_back(i);
    return i != 1;
  };
  const bool heals = GENERATE(false, true);
  const auto left = operations::roll({true, true, true, true}, std::nullopt, update, [&](auto) { return heals; }, {});
  CHECK(begun == (heals ? std::vector<std::size_t>{0, 1, 2, 3} : std::vector<std::size_t>{0, 1}));
  CHECK(left == (heals ? std::vector<std::size_t>{} : std::vector<std::size_t>{2, 3}));
  std::stop_source stop;
  stop.request_stop();
  CHECK(operations::roll({true, false}, 0, update, [](auto) { return true; }, stop.get_token()).size() == 2);
}
