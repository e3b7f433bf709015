#include "daemon/fleet/decide.h"

namespace ckptd::fleet {
namespace {

using Seen = Observation::State;

bool is_in(const Look& look, Seen state) { return look.seen && look.seen->state == state; }

/// The same NAME@VERSION, and the same bytes where both are known: a seeded target is a name alone until it is met.
bool is_same(const VersionRef& a, const VersionRef& b) {
  return a.id == b.id && (a.identity.empty() || b.identity.empty() || a.identity == b.identity);
}

bool holds_what_it_was_given(const Facts& facts) {
  return facts.given && facts.lost.empty() && facts.poisoned.empty();
}

bool has_target(const Facts& facts) {
  return facts.target && holds_what_it_was_given(facts) && is_same(*facts.target, *facts.given);
}

/// Whether it was ever there.
bool was_met(const Facts& facts) {
  return facts.given || !facts.poisoned.empty() || (facts.look && facts.look->returned);
}

State state_of(const Facts& facts) {
  if (facts.updating) return State::updating;
  if (facts.drained) return State::draining;
  if (!facts.poisoned.empty()) return State::poisoned;
  if (facts.look && !facts.look->seen) return was_met(facts) ? State::gone : State::waiting;
  if (facts.look && is_in(*facts.look, Seen::asleep)) return State::asleep;
  return holds_what_it_was_given(facts) ? State::serving : State::waiting;
}

std::string present_condition(const Facts& facts) {
  if (!facts.poisoned.empty()) return "it may hold a mixture";
  if (!facts.lost.empty()) return facts.lost;
  if (facts.given) return "it serves " + facts.given->id;
  return "it was given nothing yet";
}

std::string update_by_hand(const Facts& facts) {
  return fmt::format("ckptctl update {}", facts.target ? facts.target->id : "NAME@VERSION");
}

/// What follows from the facts for an engine that has not what it should have, and whose server answers.
Decision bring(State state, const Facts& facts) {
  const auto& target = facts.target->id;
  const auto condition = present_condition(facts);
  const auto says = [&](Next next, std::string why) { return Decision{state, next, std::move(why), false, {}}; };
  if (!facts.unsuitable.empty()) return says(Next::tell, facts.unsuitable);
  if (!facts.trouble.empty())
    return says(Next::tell, fmt::format("{}, and is not given {} by itself: {}", condition, target, facts.trouble));
  if (facts.held && !facts.poisoned.empty())
    return says(Next::tell, fmt::format("{}, and is held as it is, as its on_failure says: {} heals it", condition,
                                        update_by_hand(facts)));
  if (!facts.follow)
    return says(Next::tell, fmt::format("{}, and should serve {}: this engine is only updated by hand ({})", condition,
                                        target, update_by_hand(facts)));
  // Two who write into one engine would take turns for ever.
  if (facts.changed_by_others && facts.poisoned.empty())
    return says(Next::tell, fmt::format("{}; ckptd does not undo what others do: {} takes it back", facts.lost,
                                        update_by_hand(facts)));
  if (facts.target_is == Residency::loading)
    return says(Next::wait, fmt::format("{}; {} is being loaded and follows by itself", condition, target));
  if (facts.target_is == Residency::missing)
    return says(Next::tell, fmt::format("{}; {} is not resident: load it (ckptctl load {} DIR), and it follows by itself",
                                        condition, target, target));
  const bool asleep = is_in(*facts.look, Seen::asleep);
  // It was put to sleep for a reason: another version is one to wake it, what it had before is none. A server that has
  // slept since it was started waits for its weights, and nobody else will wake it.
  const bool was_put_to_sleep = facts.lost.empty() || facts.released || facts.look->fell_asleep;
  if (asleep && was_put_to_sleep && facts.wake != Wake::none && facts.given && is_same(*facts.target, *facts.given))
    return says(Next::wait, fmt::format("it sleeps; once somebody has woken it, it is given {} again", target));
  if (asleep && facts.wake == Wake::none)
    return says(Next::wait, fmt::format("it sleeps; once somebody has woken it, it is given {} (or register it with "
                                        "--wake weights or all)",
                                        target));
  if (!facts.held_back.empty()) return says(Next::wait, facts.held_back);
  if (!facts.turn.empty()) return says(Next::wait, facts.turn);
  auto decision = says(asleep ? Next::wake_then_push : Next::push, fmt::format("{}: {} is given by itself", condition, target));
  decision.because = condition;
  return decision;
}

std::string why_unreachable(const Facts& facts, State state) {
  const auto& sentence = facts.look->error.sentence;
  if (state == State::gone) return sentence;
  return facts.target ? fmt::format("it has not appeared yet, and is given {} when it does ({})", facts.target->id, sentence)
                      : fmt::format("it has not appeared yet ({})", sentence);
}

/// Of an engine that has what it should have, or has no target.
Decision rest(State state, const Facts& facts) {
  Decision decision{state, Next::nothing, {}, false, {}};
  if (state == State::serving && facts.look && is_in(*facts.look, Seen::starting)) {
    decision.next = Next::wait;
    decision.why = "its server says that it is not ready yet";
  } else if (state == State::serving && facts.look && is_in(*facts.look, Seen::paused)) {
    decision.next = Next::wait;
    decision.why = "its server is paused";
  } else if (state == State::asleep) {
    decision.next = Next::wait;
    decision.why = "it sleeps";
  } else if (state == State::waiting) {
    decision.next = Next::tell;
    decision.why = fmt::format("{}, and has no target: {} gives it one", present_condition(facts),
                               update_by_hand(facts));
  } else if (state == State::serving) {
    decision.ready = true;
  }
  return decision;
}

}  // namespace

std::string_view name_of(State state) {
  switch (state) {
    case State::waiting: return "waiting";
    case State::serving: return "serving";
    case State::updating: return "updating";
    case State::asleep: return "asleep";
    case State::poisoned: return "poisoned";
    case State::draining: return "draining";
    case State::gone: return "gone";
  }
  return "waiting";
}

std::string_view name_of(Next next) {
  switch (next) {
    case Next::nothing: return "nothing";
    case Next::push: return "push";
    case Next::wake_then_push: return "wake-then-push";
    case Next::resume: return "resume";
    case Next::wait: return "wait";
    case Next::tell: return "tell";
  }
  return "nothing";
}

std::string_view name_of(Wake wake) {
  switch (wake) {
    case Wake::none: return "none";
    case Wake::weights: return "weights";
    case Wake::all: return "all";
  }
  return "none";
}

std::optional<Wake> wake_named(std::string_view name) {
  for (auto wake : {Wake::none, Wake::weights, Wake::all})
    if (name_of(wake) == name) return wake;
  return std::nullopt;
}

Kept compare(const Mark& mark, const Look& look) {
  using enum Kept::Verdict;
  const auto& seen = *look.seen;
  const bool processes = mark.listener && seen.listener && mark.listener->pid != 0 && seen.listener->pid != 0;
  if (processes && *mark.listener != *seen.listener)
    return {restarted, mark.listener->pid == seen.listener->pid
                           ? fmt::format("its server was restarted (pid {} again)", seen.listener->pid)
                           : fmt::format("its server was restarted (pid {} in place of {})", seen.listener->pid,
                                         mark.listener->pid)};
  const bool labels = !mark.label.empty() && !seen.weight_version.empty();
  if (labels && mark.label != seen.weight_version) {
    const auto told = fmt::format("weight version '{}' in place of '{}'", seen.weight_version, mark.label);
    if (!processes && look.returned) return {restarted, fmt::format("its server was restarted ({})", told)};
    return {changed, fmt::format("somebody else changed its weights ({})", told)};
  }
  if (look.fell_asleep) return {released, std::string(kReleased)};
  if (processes || labels) return {same, {}};
  // A slow server is not one that was away: `returned` is of those that refused a connection.
  if (look.returned) return {restarted, "its server was away, and nothing tells that it is still the same"};
  return {unproven, {}};
}

namespace {

Decision decide_without_pause(const Facts& facts, State state) {
  if (state == State::updating) return {state, Next::wait, {}, false, {}};
  if (state == State::draining)
    return {state, Next::tell, "it was taken out of service: ckptctl undrain brings it back", false, {}};
  if (facts.look && !facts.look->seen)
    return {state, Next::wait,
            state == State::poisoned ? fmt::format("it cannot be reached ({})", facts.look->error.sentence)
                                     : why_unreachable(facts, state),
            false, {}};
  if (!facts.look && !has_target(facts) && facts.target && facts.follow)
    return {state, Next::wait, "it was not looked at yet", false, {}};
  if (facts.target && !has_target(facts)) {
    auto decision = bring(state, facts);
    // Until it is given another version it goes on with the one that it has.
    decision.ready = state == State::serving && (!facts.look || is_in(*facts.look, Seen::serving));
    return decision;
  }
  if (state == State::poisoned)
    return {state, Next::tell, fmt::format("it has no target to be healed with: {}", update_by_hand(facts)), false, {}};
  return rest(state, facts);
}

}  // namespace

Decision decide(const Facts& facts) {
  const auto state = state_of(facts);
  auto decision = decide_without_pause(facts, state);
  const bool pushes = decision.next == Next::push || decision.next == Next::wake_then_push;
  if (!facts.paused_by_us) return decision;
  decision.ready = false;
  // Also one that is not what it should be: it is no mixture, and nobody else will let it go on.
  const bool is_whole = state == State::serving || (state == State::waiting && facts.poisoned.empty());
  if (!is_whole || pushes || !facts.look || !facts.look->seen || is_in(*facts.look, Seen::starting)) return decision;
  return {state, Next::resume, "ckptd has paused it for an update, and lets it go on", false, {}};
}

}  // namespace ckptd::fleet
