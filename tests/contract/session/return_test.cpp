// Ranks that come back to their endpoint for another session, as SGLang does for the worker of a draft model.
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <thread>

#include "common/waker.h"
#include "tests/contract/session/harness.h"
#include "tests/contract/session/process.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using reference_rank::Dialect;
using reference_rank::Fault;
using namespace std::chrono_literals;

/// As long as it is in use.
constexpr auto kStayForReturn = 10'000ms;

struct Setup {
  explicit Setup(Dialect dialect = Dialect::d)
      : dialect(dialect),
        endpoints(make_backend(directory.path() / "r", kPatience, "", dialect == Dialect::d ? kShortParting : 20'000ms,
                               kStayForReturn)) {}

  std::unique_ptr<RankThread> rank(std::uint32_t sessions, Fault fault = {}) const {
    return std::make_unique<RankThread>(session->endpoint(), std::move(fault),
                                        reference_rank::Options{.dialect = dialect, .sessions = sessions});
  }
  Result<Session::Woken> wait_again(std::chrono::milliseconds patience = kPatience) {
    return session->wait_again({}, Deadline::in(patience));
  }

  Dialect dialect;
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints;
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");
};

Dialect any_dialect() { return GENERATE(Dialect::a, Dialect::b, Dialect::c, Dialect::d); }

void must(const Result<>& outcome) {
  if (!outcome) FAIL(outcome.error().sentence);
}
void must_return(const Result<Session::Woken>& outcome) {
  if (!outcome) FAIL(outcome.error().sentence);
  REQUIRE(*outcome == Session::Woken::acknowledged);
}

std::unique_ptr<Process> start_rank(const Session& session) {
  auto rank = std::make_unique<Process>(std::vector<std::string>{CKPTD_REFERENCE_RANK, "--device", "HOST-3"});
  rank->send({{"cmd", "update"}, {"endpoint", session.endpoint()}});
  return rank;
}

}  // namespace

TEST_CASE("a rank that comes back is served again on the same endpoint, as often as it comes") {
  Setup setup(any_dialect());
  CAPTURE(static_cast<int>(setup.dialect));
  auto rank = setup.rank(3);
  for (int number = 0; number < 3; ++number) {
    if (number > 0) must_return(setup.wait_again());
    must(walk(*setup.session, setup.memory, Reached::finished));
  }
  auto outcome = rank->outcome();
  REQUIRE(outcome);
  CHECK(outcome->ok);
  CHECK(rank->rank().sessions() == 3);
  REQUIRE(rank->rank().draft().size() == 2);
  CHECK(rank->rank().draft().at("scalar").bytes == setup.memory.part(1024, 4));
  CHECK(setup.session->touched());
  setup.session.reset();
  CHECK(setup.endpoints->in_custody().empty());
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("a rank that opens its next connection before it closes the last one gets all messages on the new one") {
  for (int i = 0; i < 5; ++i) {
    Setup setup;
    auto rank = setup.rank(3, {.kind = "overlap_sessions", .bucket = 0, .seconds = 0, .session = 0});
    for (int number = 0; number < 3; ++number) {
      if (number > 0) must_return(setup.wait_again());
      must(walk(*setup.session, setup.memory, Reached::finished));
    }
    REQUIRE(rank->outcome());
    CHECK(rank->outcome()->ok);
  }
}

TEST_CASE("who does not come back is a time-out and no failure, and a waker ends the wait") {
  Setup setup(any_dialect());
  auto rank = setup.rank(1);
  CHECK(setup.wait_again(10ms).error().kind == ErrorKind::internal);  // it has not finished
  must(walk(*setup.session, setup.memory, Reached::finished));
  auto waited = setup.wait_again(100ms);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::timed_out);
  auto waker = *Waker::create();
  waker.wake();
  const std::array wakers{waker.fd()};
  CHECK(*setup.session->wait_again(wakers, Deadline::in(kPatience)) == Session::Woken::by_waker);
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok);
}

TEST_CASE("a rank that takes its time to come back is waited for") {
  Setup setup;
  auto rank = setup.rank(2, {.kind = "return_late", .bucket = 0, .seconds = 0.4, .session = 1});
  must(walk(*setup.session, setup.memory, Reached::finished));
  must_return(setup.wait_again());
  must(walk(*setup.session, setup.memory, Reached::finished));
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok);
}

TEST_CASE("another process that comes after a rank has finished is an error that names it") {
  Setup setup;
  auto rank = setup.rank(1);
  must(walk(*setup.session, setup.memory, Reached::finished));
  auto stranger = start_rank(*setup.session);
  auto waited = setup.wait_again();
  REQUIRE_FALSE(waited);
  INFO(waited.error().sentence);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  CHECK(mentions(waited.error(), std::to_string(stranger->pid())));
  setup.session->fail(waited.error());
  CHECK(stranger->receive().at("ok") == false);
}

TEST_CASE("a second process during a further session is an error as during the first") {
  Setup setup;
  auto rank = setup.rank(2);
  must(walk(*setup.session, setup.memory, Reached::finished));
  must_return(setup.wait_again());
  must(walk(*setup.session, setup.memory, Reached::ready));
  auto stranger = start_rank(*setup.session);
  auto waited = setup.session->wait({}, Deadline::in(kPatience));
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  CHECK(mentions(waited.error(), std::to_string(stranger->pid())));
  setup.session->fail(waited.error());
  CHECK(stranger->receive().at("ok") == false);
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
}

TEST_CASE("a further session fails as the first does, and sets its rank free") {
  Setup setup(any_dialect());
  auto rank = setup.rank(2, {.kind = "fail_load", .bucket = 0, .seconds = 0, .session = 1});
  must(walk(*setup.session, setup.memory, Reached::finished));
  must_return(setup.wait_again());
  auto walked = walk(*setup.session, setup.memory, Reached::finished);
  REQUIRE_FALSE(walked);
  CHECK(walked.error().kind == ErrorKind::peer_failed);
  CHECK(fact(walked.error(), "step") == "reload");
  setup.session->fail(walked.error());
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("when an update fails while a rank is on its way back, the rank finds the exception and not nobody") {
  Setup setup(any_dialect());
  // Also one that was sent its last None and has not been heard of since: it ends its session well, whatever we do.
  const auto reached = setup.dialect == Dialect::d ? GENERATE(Reached::finishing, Reached::finished)
                                                   : GENERATE(Reached::releasing, Reached::finished);
  CAPTURE(static_cast<int>(setup.dialect), static_cast<int>(reached));
  auto rank = setup.rank(2, {.kind = "return_late", .bucket = 0, .seconds = kUntilTold, .session = 1});
  must(walk(*setup.session, setup.memory, reached));
  setup.session->fail({ErrorKind::peer_failed, "another rank was the reason"});
  CHECK(setup.endpoints->in_custody().size() == 1);
  rank->go_on();
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
}

TEST_CASE("a daemon that is killed between two sessions has a successor that sets the rank free") {
  TemporaryDirectory directory;
  Process holder({CKPTD_SESSION_HOLDER, (directory.path() / "r").string(), "4"});
  const auto endpoint = holder.receive().at("endpoint").get<std::string>();
  RankThread rank(endpoint, {.kind = "return_late", .bucket = 0, .seconds = 1, .session = 1},
                  reference_rank::Options{.sessions = 2});
  REQUIRE(holder.receive() == nlohmann::json{{"reached", true}});
  holder.kill();
  auto endpoints = make_backend(directory.path() / "r");
  endpoints->adopt({{endpoint, "sglang-0", "HOST-0"}}, {ErrorKind::unavailable, "ckptd was started again"});
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
  CHECK(rank.rank().sessions() == 1);
}

TEST_CASE("each session of a rank has a receipt of its own") {
  Setup setup(any_dialect());
  const auto memory = exported_by_gpu();
  auto rank = setup.rank(2, {.kind = "keep_memory", .bucket = 0, .seconds = 0, .session = 0});
  must(walk(*setup.session, memory, Reached::finished));
  const auto first = setup.session->hold();
  must_return(setup.wait_again());
  CHECK(setup.session->hold() == nullptr);
  must(walk(*setup.session, memory, Reached::finished));
  const auto second = setup.session->hold();
  REQUIRE((first && second));
  const auto deadline = Deadline::in(kPatience);
  while (!second->let_go() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  CHECK(second->let_go());
  CHECK_FALSE(first->let_go());
  REQUIRE(rank->outcome());
}

TEST_CASE("a rank in its post hook when the update fails has its time to come back from the end of the hook on") {
  Setup setup;
  auto rank = setup.rank(2, {.kind = "slow_to_return", .bucket = 0, .seconds = 1, .session = 0});
  must(walk(*setup.session, setup.memory, Reached::finishing));
  setup.session->fail({ErrorKind::peer_failed, "another rank was the reason"});
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
  CHECK(rank->rank().sessions() == 1);
}

TEST_CASE("a rank in its post hook when the daemon is killed comes back to a successor that sets it free") {
  TemporaryDirectory directory;
  Process holder({CKPTD_SESSION_HOLDER, (directory.path() / "r").string(), "4+"});
  const auto endpoint = holder.receive().at("endpoint").get<std::string>();
  RankThread rank(endpoint, {.kind = "slow_to_return", .bucket = 0, .seconds = 2, .session = 0},
                  reference_rank::Options{.sessions = 2});
  REQUIRE(holder.receive() == nlohmann::json{{"reached", true}});
  holder.kill();
  auto endpoints = make_backend(directory.path() / "r", kPatience, "", kShortParting, kStayForReturn);
  endpoints->adopt({{endpoint, "sglang-0", "HOST-0"}}, {ErrorKind::unavailable, "ckptd was started again"});
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
  CHECK(rank.rank().sessions() == 1);
}

TEST_CASE("a rank that comes back to a session that was retired is told why, and no failure is seen") {
  Setup setup(any_dialect());
  CAPTURE(static_cast<int>(setup.dialect));
  auto rank = setup.rank(2, {.kind = "return_late", .bucket = 0, .seconds = 0.8, .session = 1});
  must(walk(*setup.session, setup.memory, Reached::finished));
  setup.session->retire({ErrorKind::invalid_argument, "there was one session of each rank"});
  const auto kept = setup.endpoints->in_custody();
  REQUIRE(kept.size() == 1);
  CHECK(kept[0].endpoint == setup.session->endpoint());
  CHECK_FALSE(kept[0].failed);
  CHECK(setup.endpoints->drain(Deadline::in(0s)).empty());  // nobody waits for it at the end
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
  CHECK(rank->rank().sessions() == 1);
}

TEST_CASE("a successor binds what was retired for as long, and no longer") {
  TemporaryDirectory directory;
  auto endpoints = make_backend(directory.path() / "r", kPatience, "", kShortParting, 1500ms);
  auto endpoint = "ipc://" + (directory.path() / "r" / "abcdefghi0").string();
  endpoints->adopt({{endpoint, "sglang-0", "HOST-0", false}}, {ErrorKind::unavailable, "ckptd was started again"});
  REQUIRE(endpoints->in_custody().size() == 1);
  CHECK(endpoints->drain(Deadline::in(0s)).empty());
  SECTION("somebody comes") {
    RankThread rank(endpoint, {});
    REQUIRE(rank.outcome());
    CHECK_FALSE(rank.outcome()->ok);
  }
  const auto limit = Clock::now() + kPatience;
  while (!endpoints->in_custody().empty() && Clock::now() < limit) std::this_thread::sleep_for(10ms);
  CHECK(endpoints->in_custody().empty());
}

}  // namespace ckptd::test
