// Memory that a mapping does not keep: when a session's hold lets go, and when it must not.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "tests/contract/session/harness.h"
#include "tests/contract/session/process.h"

namespace ckptd::test {
namespace {

using ranks::Hold;
using ranks::Session;
using namespace std::chrono_literals;

struct Setup {
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints = make_backend(directory.path() / "r");
  device::Export memory = exported_by_gpu();
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "GPU-3");
};

bool lets_go_within(Hold& hold, std::chrono::milliseconds patience) {
  const auto deadline = Deadline::in(patience);
  while (!hold.let_go() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  return hold.let_go();
}

/// Long enough for a hold that would wrongly let go, short enough to be spent in each test.
constexpr auto kAMoment = 100ms;

void must(const Result<>& outcome) {
  if (!outcome) FAIL(outcome.error().sentence);
}

std::unique_ptr<Process> start_rank(const Session& session, const std::string& fault, double seconds = 0) {
  auto rank = std::make_unique<Process>(
      std::vector<std::string>{CKPTD_REFERENCE_RANK, "--device", "GPU-3", "--pretend-cuda"});
  REQUIRE(rank->ask({{"cmd", "fault"}, {"kind", fault}, {"seconds", seconds}}) == nlohmann::json{{"ok", true}});
  rank->send({{"cmd", "update"}, {"endpoint", session.endpoint()}});
  return rank;
}

}  // namespace

TEST_CASE("host memory needs no receipt, and memory that was never offered has no hold") {
  Setup setup;
  CHECK(setup.session->hold() == nullptr);
  RankThread rank(setup.session->endpoint());
  must(walk(*setup.session, Memory().exported(), Reached::connected));
  CHECK(setup.session->hold() == nullptr);
  Memory memory;
  must(setup.session->offer(memory.exported()));
  must(acknowledged(*setup.session));
  CHECK(setup.session->hold() == nullptr);
}

TEST_CASE("a rank that nobody came for was told of no memory") {
  Setup setup;
  must(setup.session->offer(setup.memory));
  CHECK_FALSE(acknowledged(*setup.session, 50ms));
  setup.session->fail(test_failure());
  CHECK(setup.session->hold() == nullptr);
}

TEST_CASE("a hold lets go when the rank has unmapped, and outlives its session") {
  Setup setup;
  auto& session = *setup.session;
  RankThread rank(session.endpoint());
  must(walk(session, setup.memory, Reached::reloaded));
  const auto hold = session.hold();
  REQUIRE(hold);
  CHECK_FALSE(hold->let_go());
  CHECK(hold->holder().engine == "sglang-0");
  CHECK(hold->holder().device == "GPU-3");
  REQUIRE(hold->holder().processes.size() == 1);
  CHECK(hold->holder().processes[0].pid == ::getpid());
  CHECK(hold->holder().processes[0].started > 0);
  CHECK(hold->why().find("not unmapped") != std::string::npos);
  must(session.release());
  must(acknowledged(session));
  CHECK(hold->let_go());  // this one unmaps before it acknowledges
  must(session.finish());
  must(acknowledged(session));
  setup.session.reset();
  setup.endpoints.reset();
  CHECK(hold->let_go());
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->ok);
}

TEST_CASE("a rank that unmaps after its last word is waited for") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "unmap_late", .bucket = 0, .seconds = kUntilTold});
  must(walk(*setup.session, setup.memory, Reached::finished));
  const auto hold = setup.session->hold();
  REQUIRE(hold);
  CHECK_FALSE(hold->let_go());
  setup.session.reset();
  rank.go_on();
  CHECK(lets_go_within(*hold, kPatience));
}

TEST_CASE("a rank that keeps the memory is waited for until its process ends") {
  Setup setup;
  auto rank = start_rank(*setup.session, "keep_memory");
  must(walk(*setup.session, setup.memory, Reached::finished));
  REQUIRE(rank->receive().at("ok") == true);
  const auto hold = setup.session->hold();
  setup.session.reset();
  REQUIRE(hold);
  CHECK(hold->holder().processes.at(0).pid == rank->pid());
  SECTION("it forgets the memory after all") {
    CHECK_FALSE(lets_go_within(*hold, kAMoment));
    REQUIRE(rank->ask({{"cmd", "forget"}}).at("ok") == true);
    CHECK(hold->let_go());
  }
  SECTION("it is killed") {
    CHECK_FALSE(lets_go_within(*hold, kAMoment));
    rank->kill();
    CHECK(lets_go_within(*hold, kPatience));
  }
}

TEST_CASE("a rank that counts down twice has given no receipt") {
  Setup setup;
  auto rank = start_rank(*setup.session, "count_twice");
  must(walk(*setup.session, setup.memory, Reached::finished));
  const auto hold = setup.session->hold();
  REQUIRE(hold);
  CHECK_FALSE(lets_go_within(*hold, kAMoment));
  CHECK(hold->why().find("proves nothing") != std::string::npos);
  rank->kill();
  CHECK(lets_go_within(*hold, kPatience));
}

TEST_CASE("a receipt that is there as soon as the memory is opened is none: the rank maps it from an earlier update") {
  Setup setup;
  auto rank = start_rank(*setup.session, "cached_memory");
  must(walk(*setup.session, setup.memory, Reached::finished));
  const auto hold = setup.session->hold();
  REQUIRE(hold);
  CHECK_FALSE(lets_go_within(*hold, kAMoment));
  CHECK(hold->why().find("earlier update") != std::string::npos);
  rank->kill();
  CHECK(lets_go_within(*hold, kPatience));
}

TEST_CASE("two processes on one endpoint: no receipt speaks for both") {
  Setup setup;
  auto first = start_rank(*setup.session, "none");
  must(walk(*setup.session, setup.memory, Reached::reloaded));
  auto second = start_rank(*setup.session, "none");
  const auto deadline = Deadline::in(kPatience);
  Result<Session::Woken> looked = Session::Woken::by_waker;
  while (!deadline.passed()) {
    looked = setup.session->wait({}, Deadline::in(20ms));
    if (!looked && looked.error().kind != ErrorKind::timed_out) break;
  }
  REQUIRE_FALSE(looked);
  setup.session->fail(looked.error());
  const auto hold = setup.session->hold();
  REQUIRE(hold);
  CHECK(hold->holder().processes.size() == 2);
  CHECK(first->receive().at("ok") == false);  // it has dropped the memory and counted
  CHECK_FALSE(lets_go_within(*hold, kAMoment));
  first->kill();
  CHECK_FALSE(lets_go_within(*hold, kAMoment));
  second->kill();
  CHECK(lets_go_within(*hold, kPatience));
}

TEST_CASE("a session that failed has a hold: a closed socket proves nothing, the receipt or the process's end does") {
  Setup setup;
  auto rank = start_rank(*setup.session, "none");
  must(walk(*setup.session, setup.memory, Reached::reloaded));
  SECTION("the rank leaves by the exception and drops the memory") {
    setup.session->fail(test_failure());
    const auto hold = setup.session->hold();
    REQUIRE(hold);
    CHECK(lets_go_within(*hold, kPatience));
    CHECK(rank->receive().at("ok") == false);
  }
  SECTION("the rank is killed in the middle") {
    rank->kill();
    CHECK_FALSE(acknowledged(*setup.session));
    setup.session->fail(test_failure());
    const auto hold = setup.session->hold();
    REQUIRE(hold);
    CHECK(lets_go_within(*hold, kPatience));
  }
}

TEST_CASE("a rank that said it could not open the memory does not hold it") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "fail_open", .bucket = 0, .seconds = 0});
  auto walked = walk(*setup.session, setup.memory, Reached::ready);
  REQUIRE_FALSE(walked);
  setup.session->fail(walked.error());
  CHECK(setup.session->hold() == nullptr);
}

TEST_CASE("each session has a receipt of its own") {
  Setup setup;
  auto other = *setup.endpoints->open("sglang-0", "GPU-4");
  RankThread first(setup.session->endpoint()), second(other->endpoint());
  must(walk(*setup.session, setup.memory, Reached::reloaded));
  must(walk(*other, setup.memory, Reached::finished));
  CHECK(other->hold()->let_go());
  CHECK_FALSE(setup.session->hold()->let_go());
}

}  // namespace ckptd::test
