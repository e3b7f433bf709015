#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/contract/session/harness.h"
#include "tests/contract/session/process.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using namespace std::chrono_literals;

struct Setup {
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints = make_backend(directory.path() / "r");
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");

  Error walk_into_error(Reached to) {
    auto walked = walk(*session, memory, to);
    if (walked) FAIL("the walk did not fail");
    return walked.error();
  }
};

std::unique_ptr<Process> start_rank(const Session& session, nlohmann::json fault = nullptr) {
  auto rank = std::make_unique<Process>(std::vector<std::string>{CKPTD_REFERENCE_RANK, "--device", "HOST-3"});
  if (!fault.is_null()) {
    fault["cmd"] = "fault";
    if (rank->ask(fault) != nlohmann::json{{"ok", true}}) throw std::runtime_error("the fault was not taken");
  }
  rank->send({{"cmd", "update"}, {"endpoint", session.endpoint()}});
  return rank;
}

void check_names(const Error& error, std::string_view step) {
  INFO(error.sentence);
  CHECK(mentions(error, "sglang-0"));
  CHECK(mentions(error, "HOST-3"));
  CHECK(fact(error, "engine") == "sglang-0");
  CHECK(fact(error, "device") == "HOST-3");
  CHECK(fact(error, "step") == step);
}

}  // namespace

TEST_CASE("a rank that cannot open the memory answers with its traceback") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "fail_open", .bucket = 0, .seconds = 0});
  auto error = setup.walk_into_error(Reached::ready);
  CHECK(error.kind == ErrorKind::peer_failed);
  check_names(error, "offer");
  CHECK(mentions(error, std::to_string(::getpid())));
  CHECK(error.vendor.starts_with("Traceback"));
  CHECK(error.vendor.find("fail_open") != std::string::npos);
  setup.session->fail(error);
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
}

TEST_CASE("memory that is not there is the rank's traceback, too") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  REQUIRE(setup.session->offer(device::HostExport{"/proc/self/fd/987654", 4096}));
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  setup.session.reset();
  REQUIRE(rank.outcome());
}

TEST_CASE("a rank that fails to load answers with its traceback, and leaves by our exception") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "fail_load", .bucket = 1, .seconds = 0});
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloaded));
  REQUIRE(reload_two(*setup.session, 17));
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  check_names(waited.error(), "reload");
  CHECK(mentions(waited.error(), "17"));
  CHECK(waited.error().vendor.find("fail_load") != std::string::npos);
  setup.session->fail({ErrorKind::peer_failed, "another rank was the reason"});
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->error.find("another rank was the reason") != std::string::npos);
}

TEST_CASE("offsets that the rank cannot view are its traceback, not its end") {
  Setup setup;
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::ready));
  static constexpr std::array<std::uint64_t, 1> shape{4};
  auto offset = GENERATE(std::uint64_t{1}, std::uint64_t{1 << 16}, std::uint64_t{1} << 63);
  REQUIRE(setup.session->reload(std::array{ranks::TensorView{"w", weights::Dtype::f32, shape, offset}}, 0));
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  setup.session->fail(waited.error());
  REQUIRE(rank.outcome());
}

TEST_CASE("a post hook that raises ends the session without a reply") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "fail_post_hook", .bucket = 0, .seconds = 0});
  auto error = setup.walk_into_error(Reached::finished);
  CHECK(error.kind == ErrorKind::peer_failed);
  check_names(error, "finish");
  REQUIRE(rank.outcome());
}

TEST_CASE("a rank that is killed is noticed at once, in whatever it did") {
  Setup setup;
  auto reached = GENERATE(Reached::connected, Reached::ready, Reached::reloading, Reached::reloaded, Reached::released,
                          Reached::finishing);
  nlohmann::json fault;
  if (reached == Reached::reloading) fault = {{"kind", "stall"}, {"seconds", 60}};
  if (reached == Reached::finishing) fault = {{"kind", "slow_post_hook"}, {"seconds", 60}};
  auto rank = start_rank(*setup.session, fault);
  REQUIRE(walk(*setup.session, setup.memory, reached));
  auto pid = rank->pid();
  rank->kill();
  auto waited = setup.session->wait({}, Deadline::in(kPatience));
  REQUIRE_FALSE(waited);
  INFO(waited.error().sentence);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  CHECK(fact(waited.error(), "pid") == std::to_string(pid));
  CHECK(fact(waited.error(), "uid") == std::to_string(::getuid()));
  CHECK(mentions(waited.error(), std::to_string(pid)));
  setup.session->fail(waited.error());
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("a rank that kills itself while it loads is named with its list") {
  Setup setup;
  auto rank = start_rank(*setup.session, {{"kind", "die"}, {"bucket", 2}});
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloaded));
  REQUIRE(reload_two(*setup.session, 1));
  REQUIRE(acknowledged(*setup.session));
  REQUIRE(reload_two(*setup.session, 2));
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  check_names(waited.error(), "reload");
  CHECK(mentions(waited.error(), "reload 2"));
}

TEST_CASE("a rank that stalls is a time-out that names it, and ends once it wakes") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "stall", .bucket = 0, .seconds = kUntilTold});
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloading));
  auto waited = acknowledged(*setup.session, 50ms);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::timed_out);
  check_names(waited.error(), "reload");
  CHECK(mentions(waited.error(), std::to_string(::getpid())));
  setup.session->fail(waited.error());
  CHECK(setup.endpoints->in_custody().size() == 1);
  rank.go_on();
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);  // its acknowledgement of the list came after the failure and counts for nothing
}

TEST_CASE("nobody connecting is a time-out with the likely causes") {
  Setup setup;
  REQUIRE(setup.session->offer(setup.memory.exported()));
  auto waited = acknowledged(*setup.session, 50ms);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::timed_out);
  check_names(waited.error(), "connect");
  CHECK(mentions(waited.error(), setup.session->endpoint()));
  CHECK(mentions(waited.error(), "0660"));
}

TEST_CASE("two ranks on one endpoint are an error that names both, and both are set free") {
  Setup setup;
  auto first = start_rank(*setup.session);
  REQUIRE(walk(*setup.session, setup.memory, Reached::ready));
  auto second = start_rank(*setup.session);
  auto waited = setup.session->wait({}, Deadline::in(kPatience));
  REQUIRE_FALSE(waited);
  INFO(waited.error().sentence);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  CHECK(mentions(waited.error(), std::to_string(first->pid())));
  CHECK(mentions(waited.error(), std::to_string(second->pid())));
  setup.session->fail(waited.error());
  CHECK(first->receive().at("ok") == false);
  CHECK(second->receive().at("ok") == false);
  CHECK(setup.endpoints->drain(Deadline::in(kPatience)).empty());
}

TEST_CASE("a rank that connects twice is an error") {
  Setup setup;
  RankThread rank(setup.session->endpoint(), {.kind = "connect_twice", .bucket = 0, .seconds = 0});
  auto walked = walk(*setup.session, setup.memory, Reached::ready);
  // The second connection may arrive just after the memory was opened; it is seen by the next look then.
  if (walked) {
    auto waited = setup.session->wait({}, Deadline::in(kPatience));
    REQUIRE_FALSE(waited);
    walked = std::unexpected(waited.error());
  }
  CHECK(walked.error().kind == ErrorKind::peer_failed);
  CHECK(mentions(walked.error(), "second"));
  setup.session->fail(walked.error());
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
}

}  // namespace ckptd::test
