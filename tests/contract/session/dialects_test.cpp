// Workers of every version of checkpoint-engine: how each is brought to its end, and what is seen when it fails.
#include <catch2/catch.hpp>
#include <thread>
#include <zmq.hpp>

#include "proto/checkpoint_engine/messages.h"
#include "tests/contract/session/harness.h"
#include "tests/contract/session/process.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using reference_rank::Dialect;
using reference_rank::Fault;
using namespace std::chrono_literals;

/// So long that a worker which leaves is surely seen to; who stays is waited for that long, once.
std::chrono::milliseconds parting_wait_for(Dialect dialect) { return dialect == Dialect::d ? kShortParting : 20'000ms; }

struct Setup {
  explicit Setup(Dialect dialect) : Setup(dialect, parting_wait_for(dialect)) {}
  Setup(Dialect dialect, std::chrono::milliseconds parting_wait)
      : dialect(dialect), endpoints(make_backend(directory.path() / "r", kPatience, "", parting_wait)) {}

  std::unique_ptr<RankThread> rank(const Session& of, Fault fault = {}) const {
    return std::make_unique<RankThread>(of.endpoint(), std::move(fault), reference_rank::Options{.dialect = dialect});
  }
  Error walk_into_error(Reached to) {
    auto walked = walk(*session, memory, to);
    if (walked) FAIL("the walk did not fail");
    return walked.error();
  }

  Dialect dialect;
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints;
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");
};

Dialect any_dialect() { return GENERATE(Dialect::a, Dialect::b, Dialect::c, Dialect::d); }
Dialect any_before_d() { return GENERATE(Dialect::a, Dialect::b, Dialect::c); }

Fault fault(std::string kind, double seconds = 0) { return {.kind = std::move(kind), .bucket = 0, .seconds = seconds}; }

void must(const Result<>& outcome) {
  if (!outcome) FAIL(outcome.error().sentence);
}

}  // namespace

TEST_CASE("a worker of any dialect loads what it is told, and the session ends clean") {
  Setup setup(any_dialect());
  CAPTURE(static_cast<int>(setup.dialect));
  for (int update = 0; update < 2; ++update) {
    if (update > 0) setup.session = *setup.endpoints->open("sglang-0", "HOST-3");
    auto rank = setup.rank(*setup.session);
    must(walk(*setup.session, setup.memory, Reached::finished));
    auto outcome = rank->outcome();
    REQUIRE(outcome);
    CHECK(outcome->ok);
    REQUIRE(rank->rank().model().size() == 2);
    CHECK(rank->rank().model().at("model.norm.weight").bytes == setup.memory.part(256, 30));
  }
  setup.session.reset();
  CHECK(setup.endpoints->in_custody().empty());
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("a worker that takes one None ends the release at once, and the finish sends nothing") {
  Setup setup(any_before_d());
  auto rank = setup.rank(*setup.session);
  must(walk(*setup.session, setup.memory, Reached::reloaded));
  CHECK(setup.session->may_finish_on_release());
  const auto start = Clock::now();
  must(setup.session->release());
  must(acknowledged(*setup.session));
  CHECK(Clock::now() - start < 10s);  // the whole wait for its parting is 20 s
  must(setup.session->finish());
  must(acknowledged(*setup.session, 0ms));
  CHECK(setup.session->finish().error().kind == ErrorKind::internal);
}

TEST_CASE("a worker that takes two Nones is watched once, and then known by its process") {
  // A step may take as long as the first attempt's watching where somebody is held up.
  for (const auto parting_wait : {700ms, 5'000ms}) {
    Setup setup(Dialect::d, parting_wait);
    auto update = [&] {
      setup.session = *setup.endpoints->open("sglang-0", "HOST-3");
      auto rank = setup.rank(*setup.session);
      must(walk(*setup.session, setup.memory, Reached::reloaded));
      const bool may = setup.session->may_finish_on_release();
      const auto start = Clock::now();
      must(setup.session->release());
      must(acknowledged(*setup.session));
      const auto waited = Clock::now() - start;
      must(setup.session->finish());
      must(acknowledged(*setup.session));
      REQUIRE(rank->outcome());
      CHECK(rank->outcome()->ok);
      return std::pair(may, waited);
    };
    const auto [first_may, first_waited] = update();
    CHECK(first_may);
    CHECK(first_waited >= parting_wait);
    const auto [second_may, second_waited] = update();
    CHECK_FALSE(second_may);
    if (second_waited >= parting_wait && parting_wait < 5s) continue;
    CHECK(second_waited < parting_wait);
    break;
  }
}

TEST_CASE("a slow post hook is waited for, whichever None it runs on") {
  Setup setup(any_dialect());
  auto rank = setup.rank(*setup.session, fault("slow_post_hook", 0.3));
  must(walk(*setup.session, setup.memory, Reached::reloaded));
  const auto start = Clock::now();
  must(setup.session->release());
  must(acknowledged(*setup.session));
  const bool in_release = Clock::now() - start >= 300ms;
  if (setup.dialect != Dialect::d) CHECK(in_release);
  must(setup.session->finish());
  must(acknowledged(*setup.session));
  CHECK(Clock::now() - start >= 300ms);
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok);
}

TEST_CASE("an error in load_weights is the dialect's own error, and the rank leaves") {
  Setup setup(any_dialect());
  auto rank = setup.rank(*setup.session, fault("fail_load"));
  const auto error = setup.walk_into_error(Reached::reloaded);
  INFO(error.sentence);
  CHECK(error.kind == ErrorKind::peer_failed);
  CHECK(mentions(error, "sglang-0"));
  CHECK(mentions(error, "HOST-3"));
  CHECK(fact(error, "step") == "reload");
  switch (setup.dialect) {
    case Dialect::a:
      CHECK(mentions(error, "went away"));
      CHECK(mentions(error, "the engine's answer"));
      break;
    case Dialect::b:
      CHECK(mentions(error, "pickled exception"));
      CHECK(mentions(error, "fail_load was asked for"));
      break;
    default: CHECK(error.vendor.starts_with("Traceback"));
  }
  setup.session->fail(error);
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("memory that cannot be opened is an error of step offer, and the rank leaves") {
  Setup setup(any_dialect());
  auto rank = setup.rank(*setup.session, fault("fail_open"));
  const auto error = setup.walk_into_error(Reached::ready);
  INFO(error.sentence);
  CHECK(error.kind == ErrorKind::peer_failed);
  CHECK(fact(error, "step") == "offer");
  if (setup.dialect != Dialect::a) CHECK((error.sentence + error.vendor).find("fail_open") != std::string::npos);
  setup.session->fail(error);
  REQUIRE(rank->outcome());
  CHECK_FALSE(rank->outcome()->ok);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("a post hook that raises ends the session without a reply in every dialect") {
  Setup setup(any_dialect());
  auto rank = setup.rank(*setup.session, fault("fail_post_hook"));
  const auto error = setup.walk_into_error(Reached::finished);
  INFO(error.sentence);
  CHECK(error.kind == ErrorKind::peer_failed);
  CHECK(fact(error, "step") == (setup.dialect == Dialect::d ? "finish" : "release"));
  CHECK(mentions(error, "post hook"));
  REQUIRE(rank->outcome());
}

TEST_CASE("a failed session leaves no worker of any dialect waiting, and finishes none") {
  const auto reached = GENERATE(Reached::opened, Reached::connected, Reached::offered, Reached::ready, Reached::reloading,
                                Reached::reloaded, Reached::releasing);
  Setup setup(any_before_d());
  CAPTURE(static_cast<int>(reached), static_cast<int>(setup.dialect));
  auto rank = setup.rank(*setup.session, reached == Reached::reloading   ? fault("stall", 0.3)
                                         : reached == Reached::releasing ? fault("slow_post_hook", 0.3)
                                                                         : Fault{});
  must(walk(*setup.session, setup.memory, reached));
  setup.session->fail(test_failure());
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok == (reached == Reached::releasing));  // who is in its post hook has everything
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
  CHECK(std::filesystem::is_empty(setup.directory.path() / "r"));
}

TEST_CASE("a worker of any dialect that is killed is noticed at once") {
  const auto reached = GENERATE(Reached::ready, Reached::reloading, Reached::releasing);
  const std::string dialect = GENERATE("A", "B", "C", "D");
  Setup setup(Dialect::d);
  Process rank({CKPTD_REFERENCE_RANK, "--device", "HOST-3", "--dialect", dialect});
  // As seen from outside, a D worker that is killed between the two Nones is none of the others only if it was known.
  const auto kind = reached == Reached::reloading ? "stall" : dialect == "D" ? "none" : "slow_post_hook";
  REQUIRE(rank.ask({{"cmd", "fault"}, {"kind", kind}, {"seconds", 60}}).at("ok") == true);
  rank.send({{"cmd", "update"}, {"endpoint", setup.session->endpoint()}});
  must(walk(*setup.session, setup.memory, dialect == "D" && reached == Reached::releasing ? Reached::released : reached));
  rank.kill();
  auto waited = setup.session->wait({}, Deadline::in(kPatience));
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
}

TEST_CASE("a worker that leaves before it has finished is told from one that takes one None, if it was known") {
  Setup setup(Dialect::d);
  auto first = setup.rank(*setup.session);
  must(walk(*setup.session, setup.memory, Reached::finished));
  REQUIRE(first->outcome());
  setup.session = *setup.endpoints->open("sglang-0", "HOST-3");
  auto second = setup.rank(*setup.session, fault("leave_early"));
  const auto error = setup.walk_into_error(Reached::finished);
  CHECK(error.kind == ErrorKind::peer_failed);
  CHECK(mentions(error, "after the last bucket"));
}

TEST_CASE("a worker that takes one None and closes too late fails its session, and its None reaches nobody else") {
  Setup setup(any_before_d(), 50ms);
  auto rank = setup.rank(*setup.session, fault("close_late", kUntilTold));
  must(walk(*setup.session, setup.memory, Reached::finishing));
  rank->go_on();
  const auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  const auto error = waited.error();
  INFO(error.sentence);
  CHECK(error.kind == ErrorKind::peer_failed);
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok);
  // Whoever comes now gets the exception, and not what was meant for the one before.
  setup.session->fail(error);
  auto next = setup.rank(*setup.session);
  REQUIRE(next->outcome());
  CHECK_FALSE(next->outcome()->ok);
}

TEST_CASE("a second None is never sent to who comes after a worker that takes one") {
  Setup setup(Dialect::a, 20'000ms);
  must(setup.session->offer(setup.memory.exported()));
  {
    auto rank = setup.rank(*setup.session);
    must(acknowledged(*setup.session));
    must(setup.session->release());
    must(acknowledged(*setup.session));
    must(setup.session->finish());
    must(acknowledged(*setup.session));
  }
  zmq::context_t context;
  zmq::socket_t next(context, zmq::socket_type::rep);
  next.set(zmq::sockopt::linger, 0);
  next.set(zmq::sockopt::rcvtimeo, 500);
  next.connect(setup.session->endpoint());
  zmq::message_t message;
  CHECK_FALSE(next.recv(message));
}

TEST_CASE("memory of a GPU is held until a worker has unmapped it, which those before 0.4.0 do after their last word") {
  Setup setup(any_dialect());
  const auto memory = exported_by_gpu();
  auto rank = setup.rank(*setup.session, fault("unmap_late", kUntilTold));
  must(walk(*setup.session, memory, Reached::finished));
  const auto hold = setup.session->hold();
  REQUIRE(hold);
  CHECK_FALSE(hold->let_go());
  setup.session.reset();
  rank->go_on();
  const auto deadline = Deadline::in(kPatience);
  while (!hold->let_go() && !deadline.passed()) std::this_thread::sleep_for(1ms);
  CHECK(hold->let_go());
  REQUIRE(rank->outcome());
  CHECK(rank->outcome()->ok);
}

}  // namespace ckptd::test
