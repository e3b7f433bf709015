#include "daemon/fleet/engine.h"

#include <array>

namespace ckptd::fleet {
namespace {

constexpr std::array<std::string_view, 5> kPauses{"none", "abort", "retract", "in_place", "keep"};

std::unexpected<Error> no_such_call(std::string_view what) {
  return fail(ErrorKind::unsupported, "this kind of engine cannot be asked to {}", what);
}

}  // namespace

std::vector<std::string> known_kinds() {
  return {"sglang"};
}

std::string_view name_of(Pause pause) { return kPauses[static_cast<std::size_t>(pause)]; }

std::optional<Pause> pause_named(std::string_view name) {
  for (std::size_t i = 0; i < kPauses.size(); ++i)
    if (kPauses[i] == name) return static_cast<Pause>(i);
  return std::nullopt;
}

std::string_view name_of(Observation::State state) {
  switch (state) {
    case Observation::State::starting: return "starting";
    case Observation::State::serving: return "serving";
    case Observation::State::paused: return "paused";
    case Observation::State::asleep: return "asleep";
  }
  return "starting";
}

Result<Description> Engine::describe(std::chrono::milliseconds) { return no_such_call("describe itself"); }

Result<> Engine::conclude(const UpdateCall&, std::chrono::milliseconds) { return {}; }

Result<> Engine::pause(Pause mode, std::chrono::milliseconds, std::stop_token) {
  if (mode == Pause::none) return {};
  return no_such_call("pause");
}

Result<> Engine::resume(std::chrono::milliseconds) { return no_such_call("resume"); }

Result<> Engine::wake_weights(std::chrono::milliseconds) { return no_such_call("wake up"); }

Result<> Engine::wake_rest(std::chrono::milliseconds) { return no_such_call("wake up"); }

Result<std::vector<RankChecksums>> Engine::checksums(std::chrono::milliseconds) {
  return no_such_call("tell checksums of its weights");
}

}  // namespace ckptd::fleet
