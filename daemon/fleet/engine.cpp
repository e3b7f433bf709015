#include "daemon/fleet/engine.h"

#include <algorithm>
#include <array>

namespace ckptd::fleet {
namespace {

constexpr std::array<std::string_view, 6> kPauses{"none", "abort", "retract", "in_place", "keep", "wait"};

struct Kind {
  std::string_view name;
  std::vector<Pause> pauses;  ///< besides none
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{{"sglang", {Pause::abort, Pause::retract, Pause::in_place}},
                                     {"vllm", {Pause::abort, Pause::keep, Pause::wait}},
                                     {"lmdeploy", {Pause::abort}}};
  return all;
}

std::unexpected<Error> no_such_call(std::string_view what) {
  return fail(ErrorKind::unsupported, "this kind of engine cannot be asked to {}", what);
}

}  // namespace

std::vector<std::string> known_kinds() {
  std::vector<std::string> names;
  for (const auto& kind : kinds()) names.emplace_back(kind.name);
  return names;
}

Result<> check_pause(std::string_view kind, Pause mode, bool flush_cache) {
  const auto at = std::ranges::find(kinds(), kind, &Kind::name);
  if (at == kinds().end()) return fail(ErrorKind::invalid_argument, "'{}' is not a kind of engine", kind);
  if (mode == Pause::none) return {};
  if (std::ranges::find(at->pauses, mode) == at->pauses.end()) {
    std::string known;
    for (auto pause : at->pauses) known += fmt::format("{}, ", name_of(pause));
    return fail(ErrorKind::invalid_argument, "an engine of kind {} cannot pause with {}; it knows: {}none", kind,
                name_of(mode), known);
  }
  // The scheduler still has the paused requests, and will not flush a cache that is in use: older servers fail an
  // assertion over it, newer ones answer a failure after the weights have been replaced.
  if (mode == Pause::in_place && flush_cache)
    return fail(ErrorKind::invalid_argument,
                "SGLang cannot flush the cache of requests that are paused in place: keep the cache (--keep-cache), or "
                "pause with retract, which computes it again");
  return {};
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

Result<std::vector<RankValues>> Engine::values(const std::string&, std::size_t, std::chrono::milliseconds) {
  return no_such_call("tell values of its weights");
}

}  // namespace ckptd::fleet
