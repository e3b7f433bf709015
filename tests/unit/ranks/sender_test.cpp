#include "proto/checkpoint_engine/sender.h"

#include <catch2/catch.hpp>

#include "common/utf8.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

using State = Sender::State;
using Send = Result<> (Sender::*)();

struct StepRow {
  std::string name;
  Send send;
  State from, to;
};

const std::vector<StepRow> kSteps{
    {"offer", &Sender::sent_offer, State::idle, State::offering},
    {"reload", &Sender::sent_reload, State::ready, State::reloading},
    {"release", &Sender::sent_release, State::ready, State::releasing},
    {"finish", &Sender::sent_finish, State::released, State::finishing},
};

/// A sender that has come to a state by legal steps, with a worker that takes two Nones and was not known to.
Sender sender_in(State state) {
  Sender sender;
  auto step = [&](Send send, bool acknowledge) {
    REQUIRE((sender.*send)());
    if (acknowledge) REQUIRE(sender.received(""));
  };
  auto is_at_least = [&](State wanted) { return static_cast<int>(state) >= static_cast<int>(wanted); };
  if (state == State::failed) {
    sender.abandon();
    return sender;
  }
  if (is_at_least(State::offering)) step(&Sender::sent_offer, is_at_least(State::ready));
  if (state == State::reloading) step(&Sender::sent_reload, false);
  if (is_at_least(State::releasing)) step(&Sender::sent_release, is_at_least(State::parting));
  if (is_at_least(State::released)) REQUIRE(sender.stayed());
  if (is_at_least(State::finishing)) step(&Sender::sent_finish, is_at_least(State::finished));
  REQUIRE(sender.state() == state);
  return sender;
}

const std::vector<State> kStates{State::idle,     State::offering,  State::ready,    State::reloading, State::releasing,
                                 State::parting,  State::released, State::finishing, State::finished, State::failed};

}  // namespace

TEST_CASE("a session from beginning to end") {
  Sender sender;
  CHECK_FALSE(sender.outstanding());
  REQUIRE(sender.sent_offer());
  CHECK(sender.outstanding());
  REQUIRE(sender.received(""));
  for (int list = 0; list < 3; ++list) {
    REQUIRE(sender.sent_reload());
    CHECK(sender.outstanding());
    REQUIRE(sender.received(""));
    CHECK(sender.state() == State::ready);
  }
  const auto knows = GENERATE(true, false);
  if (knows) sender.expect_two_nones();
  REQUIRE(sender.sent_release());
  REQUIRE(sender.received(""));
  CHECK_FALSE(sender.outstanding());
  if (!knows) {
    CHECK(sender.state() == State::parting);
    CHECK_FALSE(sender.sent_finish());  // never before it is known that the worker waits for it
    REQUIRE(sender.stayed());
  }
  CHECK(sender.state() == State::released);
  REQUIRE(sender.sent_finish());
  REQUIRE(sender.received(""));
  CHECK(sender.state() == State::finished);
  CHECK_FALSE(sender.outstanding());
}

TEST_CASE("a worker that takes one None has finished when it leaves, and is sent no other") {
  auto sender = sender_in(State::parting);
  REQUIRE(sender.left());
  CHECK(sender.state() == State::finished);
  CHECK_FALSE(sender.sent_finish());
  CHECK_FALSE(sender.left());
  CHECK_FALSE(sender.stayed());
}

TEST_CASE("only who is parting can leave or stay") {
  for (auto state : kStates) {
    CAPTURE(static_cast<int>(state));
    auto one = sender_in(state), other = sender_in(state);
    CHECK(one.left().has_value() == (state == State::parting));
    CHECK(other.stayed().has_value() == (state == State::parting));
    CHECK(one.state() == (state == State::parting ? State::finished : state));
    CHECK(other.state() == (state == State::parting ? State::released : state));
  }
}

TEST_CASE("each step is legal in one state and changes nothing in the others") {
  for (auto state : kStates)
    for (const auto& step : kSteps) {
      CAPTURE(step.name, static_cast<int>(state));
      auto sender = sender_in(state);
      auto sent = (sender.*step.send)();
      CHECK(sent.has_value() == (state == step.from));
      CHECK(sender.state() == (state == step.from ? step.to : state));
      if (!sent) {
        CHECK(sent.error().kind == ErrorKind::internal);
        CHECK(sent.error().sentence.find(step.name) != std::string::npos);
      }
    }
}

TEST_CASE("a reply that is not empty is the rank's failure in whatever was asked") {
  for (const auto& step : kSteps) {
    auto sender = sender_in(step.to);
    auto received =
        sender.received("Traceback (most recent call last):\n  File \"x.py\"\nValueError: no such layer\n\n");
    REQUIRE_FALSE(received);
    CHECK(received.error().kind == ErrorKind::peer_failed);
    CHECK(received.error().sentence.ends_with("ValueError: no such layer"));
    CHECK(received.error().vendor.starts_with("Traceback"));
    CHECK(sender.state() == State::failed);
    CHECK_FALSE(sender.outstanding());
  }
}

TEST_CASE("a reply that nothing asked for is a failure, also when it is empty") {
  for (auto state :
       {State::idle, State::ready, State::parting, State::released, State::finished, State::failed}) {
    auto sender = sender_in(state);
    auto received = sender.received("");
    REQUIRE_FALSE(received);
    CHECK(received.error().kind == ErrorKind::peer_failed);
    CHECK(sender.state() == State::failed);
  }
}

TEST_CASE("tracebacks of any content become bounded UTF-8") {
  auto text = GENERATE(std::string(1, '\0'), std::string("\n \n"), std::string("\xff\xfe"), std::string("a\n\x1b[2J\x07"),
                       std::string(200'000, '\xf0'), std::string(100'000, 'x') + "\xc3\xa4\nE: end\xc3");
  auto sender = sender_in(State::reloading);
  auto received = sender.received(text);
  REQUIRE_FALSE(received);
  CHECK(is_utf8(received.error().sentence));
  CHECK(is_utf8(received.error().vendor));
  CHECK(received.error().sentence == shown(received.error().sentence, 2'000));
  CHECK(received.error().sentence.size() < 2'000);
  CHECK(received.error().vendor.size() <= 3 * 64 * 1024);
}

}  // namespace ckptd::proto::checkpoint_engine
