#include <catch2/catch.hpp>
#include <future>
#include <mutex>

#include "tests/contract/session/harness.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using namespace std::chrono_literals;

class Closed {
 public:
  void listen(ranks::Endpoints& endpoints) {
    endpoints.on_closed([this](const std::string& endpoint) {
      std::lock_guard lock(mutex_);
      endpoints_.push_back(endpoint);
    });
  }
  std::vector<std::string> endpoints() const {
    std::lock_guard lock(mutex_);
    return endpoints_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> endpoints_;
};

struct Setup {
  explicit Setup(std::chrono::milliseconds keep_bound = kPatience)
      : endpoints(make_backend(directory.path() / "r", keep_bound)) {
    closed.listen(*endpoints);
  }
  TemporaryDirectory directory;
  Closed closed;
  std::unique_ptr<ranks::Endpoints> endpoints;
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");
};

reference_rank::Fault slow_in(Reached reached) {
  if (reached == Reached::reloading) return {.kind = "stall", .bucket = 0, .seconds = 0.5};
  if (reached == Reached::finishing) return {.kind = "slow_post_hook", .bucket = 0, .seconds = 0.5};
  return {};
}

}  // namespace

TEST_CASE("a failed session leaves no rank waiting, whatever it waited for") {
  auto reached = GENERATE(from_range(std::begin(kAllReached), std::end(kAllReached)));
  auto how = GENERATE(as<std::string>{}, "fail", "destroy");
  CAPTURE(static_cast<int>(reached), how);
  Setup setup;
  RankThread rank(setup.session->endpoint(), slow_in(reached));
  auto endpoint = setup.session->endpoint();
  REQUIRE(walk(*setup.session, setup.memory, reached));
  if (how == "fail") setup.session->fail({ErrorKind::cancelled, "Ctrl-C in the test"});
  setup.session.reset();
  auto outcome = rank.outcome();
  REQUIRE(outcome);
  // A rank in its post hook has everything: nobody can take that back from it.
  CHECK(outcome->ok == (reached == Reached::finishing));
  if (reached >= Reached::reloading && reached < Reached::releasing)
    CHECK(outcome->error.find(how == "fail" ? "Ctrl-C in the test" : "the sender gave up") != std::string::npos);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(setup.closed.endpoints() == std::vector{endpoint});
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("a failed session takes no more steps and fails once") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::ready));
  setup.session->fail(test_failure());
  setup.session->fail(test_failure());
  CHECK(reload_two(*setup.session).error().kind == ErrorKind::internal);
  CHECK(setup.session->wait({}, Deadline::in(10ms)).error().kind == ErrorKind::internal);
  setup.session.reset();
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(setup.closed.endpoints().size() == 1);
}

TEST_CASE("a rank that comes after the failure gets the exception") {
  Setup setup;
  REQUIRE(setup.session->offer(setup.memory.exported()));
  setup.session->fail({ErrorKind::timed_out, "you came too late"});
  CHECK(setup.endpoints->drain(Deadline::in(100ms)).size() == 1);
  auto held = setup.endpoints->in_custody();
  REQUIRE(held.size() == 1);
  CHECK(held[0].endpoint == setup.session->endpoint());
  CHECK(held[0].engine == "sglang-0");
  CHECK(held[0].device == "HOST-3");
  RankThread rank(held[0].endpoint);
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("several ranks that come to a failed endpoint are all set free") {
  Setup setup;
  setup.session->fail(test_failure());
  {
    std::vector<std::unique_ptr<RankThread>> ranks;
    for (int i = 0; i < 4; ++i) ranks.push_back(std::make_unique<RankThread>(setup.session->endpoint()));
    for (auto& rank : ranks) {
      REQUIRE(rank->outcome());
      CHECK_FALSE(rank->outcome()->ok);
    }
  }
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("a rank that never comes is waited for only so long") {
  Setup setup(100ms);
  auto endpoint = setup.session->endpoint();
  setup.session->fail(test_failure());
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(setup.closed.endpoints() == std::vector{endpoint});
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("a custodian that comes round is alive, one that is stuck is not") {
  Setup setup(0ms);
  CHECK(setup.endpoints->check_alive(Deadline::in(kPatience)));
  std::promise<void> opened;
  auto gate = opened.get_future().share();
  setup.endpoints->on_closed([gate](const std::string&) { gate.wait_for(kPatience); });  // a disk that hangs, say
  setup.session->fail({ErrorKind::cancelled, "nobody came"});
  setup.session.reset();
  auto stuck = setup.endpoints->check_alive(Deadline::in(100ms));
  for (int i = 0; i < 50 && stuck; ++i) stuck = setup.endpoints->check_alive(Deadline::in(100ms));
  opened.set_value();
  REQUIRE_FALSE(stuck);
  CHECK(stuck.error().kind == ErrorKind::timed_out);
  CHECK(setup.endpoints->check_alive(Deadline::in(kPatience)));
}

TEST_CASE("a stalled rank is not given up when keep_bound has passed") {
  Setup setup(50ms);
  RankThread rank(setup.session->endpoint(), {.kind = "stall", .bucket = 0, .seconds = 1.5});
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloading));
  setup.session->fail(test_failure());
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->error.find("the test gave up") != std::string::npos);
}

TEST_CASE("a discarded endpoint is gone at once and in nobody's custody") {
  Setup setup;
  setup.session->discard();
  CHECK(setup.endpoints->in_custody().empty());
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
  CHECK(reload_two(*setup.session).error().kind == ErrorKind::internal);
  setup.session.reset();
  CHECK(setup.closed.endpoints().empty());
}

TEST_CASE("many sessions that fail at once from many threads are all taken care of") {
  Setup setup;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<std::unique_ptr<RankThread>> ranks;
  for (int i = 0; i < 12; ++i) {
    sessions.push_back(*setup.endpoints->open("sglang-0", fmt::format("HOST-{}", i)));
    ranks.push_back(std::make_unique<RankThread>(sessions.back()->endpoint()));
  }
  std::vector<std::future<void>> lanes;
  for (std::size_t i = 0; i < sessions.size(); ++i)
    lanes.push_back(std::async(std::launch::async, [&setup, &session = *sessions[i], i] {
      // One error ends the walk; what matters is the failure that follows it from another thread for each session.
      (void)walk(session, setup.memory, kAllReached[i % std::size(kAllReached)]);
      session.fail(test_failure());
    }));
  for (auto& lane : lanes) lane.get();
  for (auto& rank : ranks) REQUIRE(rank->outcome());
  setup.session->discard();
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(setup.closed.endpoints().size() == sessions.size());
}

TEST_CASE("the end of the daemon does not hang on what is in custody, and its successor takes it over") {
  Setup setup;
  setup.session->fail(test_failure());
  auto other = *setup.endpoints->open("sglang-0", "HOST-4");
  RankThread stalled(other->endpoint(), {.kind = "stall", .bucket = 0, .seconds = kUntilTold});
  REQUIRE(walk(*other, setup.memory, Reached::reloading));
  other->fail(test_failure());
  auto left = setup.endpoints->in_custody();
  CHECK(left.size() == 2);
  setup.endpoints.reset();
  // The rank has the exception by now or will not get it; its reply has nowhere to go, and its context waits for that.
  auto successor = make_backend(setup.directory.path() / "r");
  successor->adopt(left, {ErrorKind::unavailable, "ckptd was started again"});
  stalled.go_on();
  REQUIRE(stalled.outcome());
  CHECK_FALSE(stalled.outcome()->ok);
}

TEST_CASE("a session that outlives its endpoints still sends its rank the exception") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloaded));
  setup.endpoints.reset();
  setup.session.reset();
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
}

}  // namespace ckptd::test
