// Ranks that come one after the other, as the stages of a pipeline do.
#include <catch2/catch.hpp>

#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::Bench;
using tests::Script;

TEST_CASE("a rank whose turn comes later is waited for from the end of the one before it") {
  Bench bench(2);
  bench.deadlines.connect = 2s;
  std::vector<Script> scripts(2);
  scripts[0].finish_after = 2300ms;
  scripts[1].connects_after = bench.models[0];
  SECTION("when it is known that they take turns") {
    bench.gates.in_turn = true;
    auto pushed = bench.run(plan::FanOut::independent, scripts);
    if (!pushed) FAIL(pushed.error().sentence);
    for (auto& model : bench.models) bench.check_model(*model);
  }
  SECTION("but not where all should come at once") {
    auto pushed = bench.run(plan::FanOut::independent, scripts);
    REQUIRE_FALSE(pushed);
    CHECK(pushed.error().kind == ErrorKind::timed_out);
  }
}

TEST_CASE("a rank whose turn never comes is not waited for without end") {
  Bench bench(2);
  bench.deadlines.connect = 300ms;
  bench.gates.in_turn = true;
  std::vector<Script> scripts(2);
  scripts[1].never_connects = true;
  const auto pushed = bench.run(plan::FanOut::independent, scripts);
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().kind == ErrorKind::timed_out);
  CHECK(bench.report.lanes[0].finished);
}

TEST_CASE("a session that has timed out by itself ends the push at once") {
  Bench bench(2);
  bench.deadlines.connect = 60s;
  bench.gates.in_turn = GENERATE(false, true);
  std::vector<Script> scripts(2);
  scripts[0].gives_up_at_once = true;
  scripts[1].never_connects = true;
  const auto begun = Clock::now();
  const auto pushed = bench.run(plan::FanOut::independent, scripts);
  REQUIRE_FALSE(pushed);
  CHECK(pushed.error().sentence.find("the engine's own call has timed out") != std::string::npos);
  CHECK(Clock::now() - begun < 30s);
}
