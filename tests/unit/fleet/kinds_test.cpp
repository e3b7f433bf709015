#include <catch2/catch.hpp>

#include "daemon/fleet/engine.h"
#include "proto/control/api.h"

using namespace ckptd;
using fleet::Pause;

TEST_CASE("the kinds that clients offer are those that the daemon knows") {
  const std::vector<std::string> offered(proto::control::kEngineKinds.begin(), proto::control::kEngineKinds.end());
  CHECK(fleet::known_kinds() == offered);
}

TEST_CASE("each pause has a name, and the name leads back") {
  for (auto pause : {Pause::none, Pause::abort, Pause::retract, Pause::in_place, Pause::keep, Pause::wait})
    CHECK(fleet::pause_named(fleet::name_of(pause)) == pause);
  CHECK_FALSE(fleet::pause_named("stop"));
}

TEST_CASE("which kind can pause how, before anything is touched") {
  const auto [kind, mode, flush, allowed] = GENERATE(table<std::string, Pause, bool, bool>({
      {"sglang", Pause::none, true, true},      {"sglang", Pause::abort, true, true},
      {"sglang", Pause::retract, true, true},   {"sglang", Pause::in_place, false, true},
      {"sglang", Pause::in_place, true, false},  // fails an assertion of the scheduler, or leaves an old cache
      {"sglang", Pause::keep, false, false},    {"sglang", Pause::wait, true, false},
      {"vllm", Pause::none, true, true},        {"vllm", Pause::abort, true, true},
      {"vllm", Pause::keep, true, true},        {"vllm", Pause::wait, false, true},
      {"vllm", Pause::retract, true, false},    {"vllm", Pause::in_place, false, false},
      {"lmdeploy", Pause::none, true, true},    {"lmdeploy", Pause::abort, true, true},
      {"lmdeploy", Pause::retract, true, false}, {"lmdeploy", Pause::keep, true, false},
      {"ollama", Pause::none, true, false},
  }));
  INFO(kind << " " << fleet::name_of(mode) << " " << flush);
  const auto checked = fleet::check_pause(kind, mode, flush);
  CHECK(checked.has_value() == allowed);
  if (checked) return;
  CHECK(checked.error().kind == ErrorKind::invalid_argument);
  CHECK(checked.error().sentence.size() > 20);
}

TEST_CASE("a refused pause says what to choose instead") {
  CHECK(fleet::check_pause("sglang", Pause::in_place, true).error().sentence.find("retract") != std::string::npos);
  CHECK(fleet::check_pause("vllm", Pause::retract, true).error().sentence.find("abort, keep, wait, none") !=
        std::string::npos);
}
