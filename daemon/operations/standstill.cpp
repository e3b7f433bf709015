#include "daemon/operations/standstill.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "daemon/operations/targets.h"

namespace ckptd::operations {

using State = fleet::Observation::State;

bool Standstill::left_by_us() const {
  const auto contents = journal_.contents();
  const auto at = std::ranges::find(contents.engines, push_.engine, &journal::EngineRecord::name);
  return at != contents.engines.end() && !at->paused.empty();
}

fleet::Observation Standstill::understood(fleet::Observation seen) {
  sleeps_ = seen.state == State::asleep && fleet::pauses_by_sleeping(push_.known.kind) && left_by_us();
  if (sleeps_) seen.state = State::paused;
  return seen;
}

fleet::Observation Standstill::resumed(fleet::Observation seen) {
  seen = understood(std::move(seen));
  if (ours_ && seen.state == State::paused) seen.state = State::serving;
  return seen;
}

Result<> Standstill::begin(const fleet::Observation& seen, std::stop_token stop) {
  if (begun_) return {};
  begun_ = true;
  const bool was_left_paused = left_by_us();
  if (seen.state == State::paused) {
    ours_ = was_left_paused;
    // A daemon that was killed within its pause may have left the weights asleep as well.
    if (sleeps_)
      if (auto woken = engine_.wake_weights(push_.options->engine_step); !woken)
        return std::unexpected(woken.error().within(
            fmt::format("engine {} was left paused, and could not be woken for its weights", push_.engine)));
    return {};
  }
  const auto mode = push_.policy.pause.value_or(fleet::default_pause(push_.known.kind));
  if (seen.state != State::serving || mode == fleet::Pause::none) {
    if (seen.state == State::serving)
      warnings_.push_back("requests are not paused, so they may be answered by a mixture of versions until the update has "
                          "ended, and after it if it fails");
    if (!was_left_paused) return {};
    // It was started again since, or does not tell that it is still paused (SGLang before it had GET /ready). Then it is ours
    // to resume, which does no harm to one that is not paused.
    if (seen.state == State::serving) {
      ours_ = true;
      return {};
    }
    return write("");
  }
  CKPTD_TRY(write(std::string(fleet::name_of(mode)), &seen));
  auto paused = engine_.pause(mode, push_.options->engine_step, stop);
  if (paused) {
    ours_ = true;
    return {};
  }
  if (paused.error().kind == ErrorKind::unsupported && !push_.policy.pause) {
    warnings_.push_back(fmt::format("requests are not paused, so they may be answered by a mixture of versions until the "
                                    "update has ended: {}",
                                    paused.error().sentence));
    return write("");
  }
  // One that was left paused and does not tell so may hold a mixture: it is let go on when that is known, and not here.
  ours_ = was_left_paused;
  // It may have been paused all the same: after a deadline nobody knows.
  if (!ours_)
    if (auto resumed = engine_.resume(push_.options->engine_step); resumed || paused.error().kind == ErrorKind::unsupported)
      CKPTD_TRY(write(""));
  return std::unexpected(paused.error().within(
      fmt::format("engine {} could not be paused ({}), so it was given nothing", push_.engine, fleet::name_of(mode))));
}

Result<> Standstill::end() {
  if (!ours_) return {};
  if (auto resumed = engine_.resume(push_.options->engine_step); !resumed)
    return std::unexpected(resumed.error().within(fmt::format("engine {} could not be resumed", push_.engine)));
  ours_ = false;
  return write("");
}

Result<> Standstill::write(std::string mode, const fleet::Observation* of) {
  const auto change = [&](journal::Contents& contents) {
    const auto at = std::ranges::find(contents.engines, push_.engine, &journal::EngineRecord::name);
    if (at == contents.engines.end()) return;
    if (of) meet(*at, *of);
    at->paused = mode;
  };
  // A pause is written down before it begins, its end when it has ended.
  if (const auto written = mode.empty() ? journal_.note(change) : journal_.change(change); !written)
    return std::unexpected(written.error().within(
        fmt::format("engine {} {}", push_.engine,
                    mode.empty() ? "goes on, but that could not be recorded"
                                 : "was not touched, since its pause could not be recorded")));
  return {};
}

}  // namespace ckptd::operations
