// Ranks that come back for another session while their engine's update is open.
#include <catch2/catch.hpp>
#include <thread>

#include "tests/support/fake_hold.h"
#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::Bench;
using tests::Script;

namespace {

/// An engine that answers when all ranks have finished as many sessions as it has models.
struct Answer {
  std::stop_source source;
  std::jthread thread;
  Clock::time_point at;  ///< once joined

  Answer(Bench& bench, unsigned sessions, bool is_waited_for = false) {
    bench.gates.answered = source.get_token();
    thread = std::jthread([this, &bench, sessions, is_waited_for] {
      const auto done = [&](const auto& model) {
        return model->sessions >= sessions && (!is_waited_for || model->waited_again);
      };
      while (!std::ranges::all_of(bench.models, done)) std::this_thread::sleep_for(1ms);
      at = Clock::now();
      source.request_stop();
    });
  }
};

long count(const tests::Model& model, const std::string& step) { return std::ranges::count(model.steps, step); }

}  // namespace

TEST_CASE("a rank that comes back gets everything again, whatever the fan-out was, and no more is counted") {
  const auto fan_out = GENERATE(plan::FanOut::independent, plan::FanOut::broadcast);
  const auto sessions = GENERATE(2u, 3u);
  Bench bench(2);
  Answer answer(bench, sessions);
  std::vector<Script> scripts(2);
  for (auto& script : scripts) script.returns = sessions - 1;
  scripts[1].return_after = 30ms;
  auto pushed = bench.run(fan_out, scripts);
  if (!pushed) FAIL(pushed.error().sentence);
  for (const auto& lane : bench.report.lanes) {
    CHECK(lane.sessions == sessions);
    CHECK(lane.finished);
    CHECK(lane.bytes == bench.plan.tensor_bytes);
    CHECK(lane.spans.size() == 2 * bench.plan.buckets.size() + 3);
  }
  for (auto& model : bench.models) {
    bench.check_model(*model);  // of the last session
    CHECK(count(*model, "offer") == sessions);
    CHECK(count(*model, "release") == sessions);
    CHECK(count(*model, "finish") == sessions);
    CHECK(count(*model, "reload 0") == sessions);
  }
  CHECK(bench.offers == 1);
  CHECK(bench.touches == 1);
  CHECK(bench.progress.reloaded_bytes == 2 * bench.plan.tensor_bytes);
  CHECK(bench.progress.returned == 2 * (sessions - 1));
}

TEST_CASE("one rank alone may come back") {
  Bench bench(2);
  std::vector<Script> scripts(2);
  scripts[1].returns = 1;
  std::stop_source answered;
  bench.gates.answered = answered.get_token();
  std::jthread engine([&] {
    while (bench.models[1]->sessions < 2) std::this_thread::sleep_for(1ms);
    answered.request_stop();
  });
  REQUIRE(bench.run(plan::FanOut::broadcast, scripts));
  CHECK(bench.report.lanes[0].sessions == 1);
  CHECK(bench.report.lanes[1].sessions == 2);
}

TEST_CASE("who does not come back costs nothing: the push ends with the engine's answer") {
  Bench bench(2);
  bench.deadlines.answer = 60s;
  Answer answer(bench, 1, true);
  REQUIRE(bench.run(plan::FanOut::independent, std::vector<Script>(2)));
  const auto ended = Clock::now();
  answer.thread.join();
  CHECK(ended >= answer.at);
  CHECK(ended - answer.at < 30s);  // far less than the wait for an answer
  CHECK(bench.report.ranks_done <= answer.at);
  for (const auto& lane : bench.report.lanes) CHECK(lane.sessions == 1);
}

TEST_CASE("an answer that was there before the ranks had finished ends the push with them") {
  Bench bench(2);
  std::stop_source answered;
  answered.request_stop();
  bench.gates.answered = answered.get_token();
  REQUIRE(bench.run(plan::FanOut::independent, std::vector<Script>(2)));
  for (auto& model : bench.models) bench.check_model(*model);
}

TEST_CASE("without an answer to wait for nobody is waited for") {
  Bench bench(1);
  std::vector<Script> scripts(1);
  scripts[0].returns = 1;
  REQUIRE(bench.run(plan::FanOut::independent, scripts));
  CHECK_FALSE(bench.models[0]->waited_again);
}

TEST_CASE("an engine that does not answer is not waited for beyond its deadline, which further sessions move") {
  // A lane that is held up between two sessions may find the deadline passed: then once more with more time.
  for (const auto answer : {200ms, 1'000ms, 5'000ms}) {
    Bench bench(1);
    bench.deadlines.answer = answer;
    std::stop_source answered;
    bench.gates.answered = answered.get_token();
    std::vector<Script> scripts(1);
    scripts[0].returns = 2;
    scripts[0].return_after = answer * 6 / 10;
    const auto start = Clock::now();
    REQUIRE(bench.run(plan::FanOut::independent, scripts));  // the ranks are well; the answer is the caller's to miss
    const auto took = Clock::now() - start;
    CHECK(bench.report.lanes[0].finished);
    CHECK_FALSE(bench.models[0]->failed.empty());  // it may come back for a fourth
    if (bench.report.lanes[0].sessions < 3 && answer < 5s) continue;
    CHECK(bench.report.lanes[0].sessions == 3);
    CHECK(took >= 2 * scripts[0].return_after + answer);
    break;
  }
}

TEST_CASE("a further session that fails ends the push as any does, and the other ranks are told") {
  Bench bench(2);
  std::stop_source answered;
  bench.gates.answered = answered.get_token();
  std::vector<Script> scripts(2);
  scripts[1].returns = 1;
  scripts[1].returns_after = bench.models[0];  // when the other has finished
  SECTION("load_weights raises") { scripts[1].fails_return = true; }
  SECTION("another process comes") { scripts[1].stranger_returns = true; }
  const bool stranger = scripts[1].stranger_returns;
  auto pushed = bench.run(plan::FanOut::independent, scripts);
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::peer_failed);
  CHECK(pushed.error().sentence.find("HOST-1") != std::string::npos);
  for (auto& model : bench.models) CHECK_FALSE(model->failed.empty());  // who had finished may be on its way back
  CHECK(bench.report.lanes[0].finished);
  CHECK(bench.report.lanes[1].finished == stranger);
  CHECK(bench.report.lanes[1].sessions == 1);
}

TEST_CASE("a stop while nobody is in a session ends the wait for the engine") {
  Bench bench(2);
  std::stop_source answered, stop;
  bench.gates.answered = answered.get_token();
  std::jthread later([&] {
    while (!bench.models[0]->waited_again || !bench.models[1]->waited_again) std::this_thread::sleep_for(1ms);
    stop.request_stop();
  });
  bench.deadlines.answer = 60s;
  const auto start = Clock::now();
  auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(2), stop.get_token());
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::cancelled);
  CHECK(Clock::now() - start < 30s);
  for (auto& model : bench.models) CHECK_FALSE(model->failed.empty());
}

TEST_CASE("an arena is held for every session whose receipt is missing") {
  Bench bench(1);
  bench.deadlines.receipt = 20ms;
  Answer answer(bench, 2);
  std::vector<Script> scripts(1);
  scripts[0].returns = 1;
  auto hold = std::make_shared<tests::FakeHold>();
  scripts[0].hold = hold;
  REQUIRE(bench.run(plan::FanOut::independent, scripts));
  CHECK(bench.report.lanes[0].receipt == LaneReport::Receipt::missing);
  REQUIRE(bench.report.holds[0]);
  CHECK(bench.report.holds[0] != hold);  // of both sessions
  CHECK_FALSE(bench.report.holds[0]->let_go());
  CHECK_FALSE(bench.report.holds[0]->why().empty());
}

TEST_CASE("where the number of sessions was said, the rank that comes for one more is told so, on every lane") {
  const auto sessions = GENERATE(1u, 2u);
  Bench bench(2);
  bench.gates.sessions = sessions;
  std::vector<Script> scripts(2);
  for (auto& script : scripts) script.returns = sessions;
  REQUIRE(bench.run(plan::FanOut::independent, scripts));
  for (const auto& lane : bench.report.lanes) {
    CHECK(lane.sessions == sessions);
    CHECK(lane.finished);
  }
  for (auto& model : bench.models) {
    INFO(model->retired);
    CHECK(model->retired.find(fmt::format("{} of each rank", sessions == 1 ? "1 session" : "2 sessions")) != std::string::npos);
    CHECK(model->failed.empty());
  }
}

TEST_CASE("where the engine's answer ends the update, nobody comes any more and no endpoint is kept") {
  Bench bench(1);
  Answer answer(bench, 1);
  REQUIRE(bench.run(plan::FanOut::independent, std::vector<Script>(1)));
  CHECK(bench.models[0]->retired.empty());
  CHECK(bench.models[0]->failed.empty());
}

TEST_CASE("who comes for a session that its engine has answered before is told so") {
  const std::uint32_t told = GENERATE(1u, 2u);
  Bench bench(2);
  bench.gates.told_sessions = told;
  Answer answer(bench, 1);
  REQUIRE(bench.run(plan::FanOut::independent, std::vector<Script>(2)));
  for (const auto& model : bench.models)
    CHECK(model->retired == (told == 1 ? "" : "its engine had answered before its session 2 of 2, and the update is over"));
}
