// The life of engines: each has a thread that looks at it, and what follows from what it saw. What state that is, and
// what is to be done, daemon/fleet/decide.h says.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>

#include "common/units.h"
#include "daemon/fleet/policy.h"
#include "daemon/operations/service.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

using std::chrono::milliseconds;
using fleet::Next;

bool is_away(const Error& error) { return error.kind == ErrorKind::unavailable; }

/// `first`, doubled as often as it was tried already, up to `most`.
milliseconds backed_off(milliseconds first, milliseconds most, unsigned tries) {
  auto pause = first;
  for (unsigned i = 0; i < tries && pause < most; ++i) pause *= 2;
  return std::min(pause, std::max(first, most));
}

bool acts(const fleet::Decision& decision) {
  return decision.next == Next::push || decision.next == Next::wake_then_push;
}

}  // namespace

// ---- what is known ----

fleet::Residency Service::residency_of(const std::string& version) const {
  const auto id = weights::CheckpointId::parse(version);
  const auto view = id ? parts_.catalogue.view(*id) : std::nullopt;
  if (!view) return fleet::Residency::missing;
  if (view->state == catalogue::State::resident) return fleet::Residency::resident;
  return view->state == catalogue::State::loading ? fleet::Residency::loading : fleet::Residency::missing;
}

fleet::Facts Service::facts_of(journal::EngineRecord record, bool node_drained, const Sighting& sighting,
                               bool updating) const {
  // What a look tells counts from that moment on, and not only once it is written down.
  if (!updating && sighting.look && sighting.look->seen)
    lose(record, fleet::compare(mark_of(record), *sighting.look));
  fleet::Facts facts;
  facts.follow = record.follow;
  facts.drained = record.drained || node_drained;
  facts.updating = updating;
  facts.target = reference(record.target);
  facts.given = reference(record.serving);
  facts.lost = record.lost;
  facts.changed_by_others = record.changed_by_others;
  facts.released = record.lost == fleet::kReleased;
  facts.poisoned = record.poisoned;
  facts.paused_by_us = !record.paused.empty();
  facts.held = record.held;
  facts.look = sighting.look;
  if (record.target) facts.target_is = residency_of(record.target->id);
  facts.wake = fleet::wake_named(record.wake).value_or(fleet::Wake::none);
  if (sighting.about && !(record.target && record.target->forced))
    if (const auto why_not = unsuitable(record, *sighting.about)) facts.unsuitable = why_not->sentence;
  if (const auto* trouble = trouble_with_target(record, sighting); trouble != nullptr && !record.target->forced)
    facts.trouble = fmt::format("{}. Instead, {}; or {}, which is remembered", fleet::show(*trouble), trouble->instead,
                                fleet::forced_update(record.name, record.target->id));
  if (sighting.failures > 0 && Clock::now() < sighting.retry)
    facts.held_back = fmt::format("{}; the next attempt is at {}", sighting.last_error, api::show_time(sighting.retry_at));
  return facts;
}

api::Engine Service::show_engine(const journal::EngineRecord& record, bool node_drained) const {
  api::Engine engine;
  engine.name = record.name;
  engine.kind = record.kind;
  engine.endpoint = record.endpoint;
  engine.checkpoint = record.checkpoint;
  if (auto devices = devices_named(record.devices))
    for (const auto* device : *devices) engine.devices.push_back(device->identity().uuid);
  else
    engine.devices = record.devices;
  if (record.target) {
    engine.target = record.target->id;
    engine.target_label = record.target->weight_version;
    engine.target_forced = record.target->forced;
  }
  if (record.previous) engine.previous = record.previous->id;
  engine.follow = record.follow;
  engine.wake = record.wake;
  engine.pause = record.pause;
  engine.flush_cache = record.flush_cache;
  engine.on_failure = record.on_failure;
  engine.paused = record.paused;
  engine.held = record.held;
  engine.api_key_file = record.api_key_file;
  engine.admin_key_file = record.admin_key_file;
  engine.transfer = record.transfer;
  engine.drained = record.drained || node_drained;

  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[record.name];
  const auto updating = updating_.find(record.name);
  if (updating != updating_.end()) engine.job = updating->second.job;
  const auto facts = facts_of(record, node_drained, sighting, updating != updating_.end());
  const auto decision = decide_in_turn(facts, record);
  engine.poisoned = facts.poisoned;
  if (facts.given && facts.lost.empty()) engine.serving = facts.given->id;
  engine.state = fleet::name_of(decision.state);
  engine.next = fleet::name_of(decision.next);
  engine.why = decision.why;
  engine.ready = decision.ready;
  if (sighting.failures > 0) {
    engine.last_error = sighting.last_error;
    if (decision.next == Next::wait && Clock::now() < sighting.retry) engine.retry_at = sighting.retry_at;
  }
  const auto mark = sighting.look && sighting.look->seen
                        ? fleet::Mark{sighting.look->seen->listener, sighting.look->seen->weight_version}
                        : mark_of(record);
  engine.label = mark.label;
  engine.pid = mark.listener ? mark.listener->pid : 0;
  if (sighting.about) {
    engine.server = sighting.about->version;
    engine.warnings = sighting.about->warnings;
    if (const auto* trouble = trouble_with_target(record, sighting); trouble != nullptr && record.target->forced)
      engine.warnings.push_back(fmt::format("its target was forced: {}", fleet::show(*trouble)));
  }
  engine.restarts = sighting.restarts;
  engine.own_updates = sighting.own_updates;
  engine.own_failures = sighting.own_failures;
  if (sighting.shown_state != engine.state) {
    sighting.shown_state = engine.state;
    // The API tells seconds: what it tells and what it told shall be equal.
    sighting.since = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  }
  engine.since = sighting.since;
  return engine;
}

std::string Service::turn_of(const journal::EngineRecord& engine) const {
  for (const auto& [name, claim] : updating_)
    if (name != engine.name && claim.checkpoint == engine.checkpoint && claim.served)
      return fmt::format("it waits until engine {} has been updated: one at a time is out of service", name);
  return {};
}

fleet::Decision Service::decide_in_turn(fleet::Facts facts, const journal::EngineRecord& engine) const {
  auto decision = fleet::decide(facts);
  if (decision.next != Next::push || !decision.ready) return decision;
  facts.turn = turn_of(engine);
  return facts.turn.empty() ? decision : fleet::decide(facts);
}

// ---- looking ----

milliseconds Service::look_after(const std::string& engine) {
  const auto now = options();
  const auto record = known_engine(engine);
  if (!record) return now->engine_poll_slowest;  // it is being removed
  std::uint64_t touched = 0;
  {
    std::lock_guard lock(mutex_);
    if (updating_.contains(engine)) return now->engine_poll;  // it has better things to do than to answer us
    touched = sightings_[engine].touched;
  }
  auto server = parts_.make_engine(*record);
  if (!server) {
    note_refusal(engine, server.error());
    return now->engine_poll_slowest;
  }
  auto seen = (*server)->observe(now->ping_timeout);
  const bool answered = seen.has_value();
  if (!take_in(engine, touched, std::move(seen))) return milliseconds(0);
  if (answered) {
    describe_once(engine, **server);
    write_loss(engine, touched);
  }
  return act(engine);
}

bool Service::take_in(const std::string& engine, std::uint64_t touched, Result<fleet::Observation> seen) {
  using Seen = fleet::Observation::State;
  const auto record = known_engine(engine);
  if (!record) return false;
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[engine];
  if (updating_.contains(engine) || sighting.touched != touched) return false;
  const auto before = sighting.look;
  fleet::Look look;
  look.returned = before && before->returned;
  look.fell_asleep = before && before->fell_asleep;
  if (seen) {
    sighting.unreachable = 0;
    if (seen->state == Seen::asleep && !record->paused.empty() && fleet::pauses_by_sleeping(record->kind))
      seen->state = Seen::paused;
    const auto known = sighting.described_listener;
    if (known && seen->listener && *known != *seen->listener) sighting.was_awake = look.fell_asleep = false;
    // Also of a daemon before this one.
    if (record->serving && record->lost.empty() && !record->given_asleep &&
        (!record->listener || !seen->listener || *record->listener == *seen->listener))
      sighting.was_awake = true;
    if (seen->state != Seen::asleep) sighting.was_awake = true;
    if (seen->state == Seen::asleep && sighting.was_awake) look.fell_asleep = true;
    if (sighting.described_listener != seen->listener) sighting.described = false;
    sighting.described_listener = seen->listener;
    look.seen = *std::move(seen);
  } else {
    ++sighting.unreachable;
    look.error = std::move(seen).error();
    if (is_away(look.error)) {
      sighting.described = false;
      if (record->serving || !record->poisoned.empty() || (before && before->seen)) look.returned = true;
    }
  }
  sighting.look = std::move(look);
  return true;
}

void Service::describe_once(const std::string& engine, fleet::Engine& server) {
  {
    std::lock_guard lock(mutex_);
    if (sightings_[engine].described) return;
  }
  auto about = server.describe(options()->ping_timeout);
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[engine];
  if (!about) {
    // Who cannot tell will not tell later; who did not answer may.
    if (about.error().kind == ErrorKind::unsupported) {
      sighting.described = true;
      sighting.about.reset();
    }
    return;
  }
  for (const auto& warning : about->warnings) spdlog::warn("engine {}: {}", engine, warning);
  sighting.about = *std::move(about);
  sighting.described = true;
}

void Service::write_loss(const std::string& engine, std::uint64_t touched) {
  std::lock_guard starting(starting_);  // no update begins meanwhile
  const auto record = known_engine(engine);
  if (!record) return;
  fleet::Look look;
  {
    std::lock_guard lock(mutex_);
    const auto& sighting = sightings_[engine];
    if (updating_.contains(engine) || sighting.touched != touched || !sighting.look || !sighting.look->seen) return;
    look = *sighting.look;
  }
  if (record->given_asleep && look.seen->state != fleet::Observation::State::asleep)
    if (auto written = parts_.journal.note([&](journal::Contents& contents) {
          for (auto& each : contents.engines)
            if (each.name == engine) each.given_asleep = false;
        });
        !written)
      spdlog::warn("that engine {} is awake could not be recorded: {}", engine, written.error().sentence);
  const auto kept = fleet::compare(mark_of(*record), look);
  auto changed = *record;
  if (!lose(changed, kept)) return;
  auto written = parts_.journal.change([&](journal::Contents& contents) {
    for (auto& each : contents.engines)
      if (each.name == engine) lose(each, kept);
  });
  if (!written)
    return spdlog::warn("engine {}: {}, but that could not be recorded: {}", engine, kept.how, written.error().sentence);
  spdlog::warn("engine {}: {}; what it was given ({}) counts as lost", engine, kept.how,
               record->serving ? record->serving->id : "a part of a version");
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[engine];
  if (kept.verdict == fleet::Kept::Verdict::restarted) ++sighting.restarts;
  sighting.was_awake = false;
  if (sighting.look) sighting.look->returned = sighting.look->fell_asleep = false;
}

// ---- acting ----

milliseconds Service::act(const std::string& engine) {
  const auto now = options();
  const auto contents = parts_.journal.contents();
  const auto record = std::ranges::find(contents.engines, engine, &journal::EngineRecord::name);
  if (record == contents.engines.end()) return now->engine_poll_slowest;
  fleet::Decision decision;
  std::string told;
  auto pause = now->engine_poll;
  {
    std::lock_guard lock(mutex_);
    auto& sighting = sightings_[engine];
    if (updating_.contains(engine)) return now->engine_poll;
    const auto facts = facts_of(*record, contents.drained, sighting, false);
    decision = decide_in_turn(facts, *record);
    if (sighting.unreachable > 0)
      pause = backed_off(now->engine_poll, now->engine_poll_slowest, sighting.unreachable - 1);
    if (!facts.held_back.empty()) {
      const auto due = std::chrono::ceil<milliseconds>(sighting.retry - Clock::now());
      pause = std::clamp(due, milliseconds(1), pause);
    }
    // Each thing once, however often it is seen.
    told = fmt::format("{}{}{}", fleet::name_of(decision.state), decision.why.empty() ? "" : ": ", decision.why);
    if (told == sighting.told)
      told.clear();
    else
      sighting.told = told;
  }
  if (!told.empty()) spdlog::info("engine {} is {}", engine, told);
  announce();
  if (decision.next == Next::resume) resume_engine(engine);
  if (!acts(decision)) return pause;

  const auto target = weights::CheckpointId::parse(record->target->id);
  if (!target) {
    note_refusal(engine, target.error());
    return pause;
  }
  api::UpdateRequest request;
  request.name = target->name;
  request.version = target->version;
  request.engines = {engine};
  auto job = start_update(request, {.why = fmt::format("by itself: {}", decision.because),
                                    .by_itself = true,
                                    .again = &journal::EngineRecord::target});
  if (!job && job.error().kind != ErrorKind::busy) note_refusal(engine, job.error());
  return pause;
}

void Service::hold_back(Sighting& sighting, const std::string& why, const Options& now) {
  const auto pause = backed_off(now.engine_retry, now.engine_retry_slowest, sighting.failures++);
  sighting.last_error = why;
  sighting.retry = Clock::now() + pause;
  sighting.retry_at = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now() + pause);
}

void Service::note_outcome(const EnginePush& push, const std::optional<Error>& error) {
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[push.engine];
  ++sighting.touched;
  if (push.by_itself) ++(error ? sighting.own_failures : sighting.own_updates);
  if (error) {
    sighting.look.reset();  // it may be of another server than the one that the update met
    return hold_back(sighting, error->sentence, *push.options);
  }
  sighting.failures = 0;
  sighting.last_error.clear();
}

void Service::note_given(const std::string& engine, const std::optional<fleet::Observation>& seen) {
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[engine];
  sighting.was_awake = seen && seen->state != fleet::Observation::State::asleep;
  sighting.look.reset();
  if (seen) sighting.look = fleet::Look{.seen = *seen};
}

/// An update that did not even begin. Told once: status has it until one succeeds.
void Service::note_refusal(const std::string& engine, const Error& error) {
  if (error.kind == ErrorKind::unavailable) return;  // the daemon is about to end
  const auto now = options();
  std::lock_guard lock(mutex_);
  if (updating_.contains(engine)) return;  // somebody else was faster, and that is as good
  auto& sighting = sightings_[engine];
  if (sighting.last_error != error.sentence) spdlog::warn("engine {} could not be updated: {}", engine, error.sentence);
  hold_back(sighting, error.sentence, *now);
}

void Service::forget_sighting(const std::string& engine) {
  std::lock_guard lock(mutex_);
  auto& sighting = sightings_[engine];
  sighting = {.touched = sighting.touched + 1};
}

// ---- the threads ----

void Service::start_watching() {
  for (const auto& engine : parts_.journal.contents().engines) watch_engine(engine.name);
}

void Service::watch_engine(const std::string& engine) {
  std::lock_guard lock(watching_);
  std::erase_if(ended_watches_, [](const auto& watch) { return watch->has_ended(); });
  if (watching_ended_) return;
  auto& watch = watches_[engine];
  if (watch) return watch->nudge();
  try {
    watch = std::make_unique<Watch>([this, engine] { return look_after(engine); });
  } catch (const std::system_error& error) {
    watches_.erase(engine);
    spdlog::error("engine {} is not looked after, no thread could be started for that: {}", engine, error.what());
  }
}

void Service::stop_watching() {
  std::lock_guard lock(watching_);
  watching_ended_ = true;
  for (auto& [engine, watch] : watches_) watch->request_stop();
}

void Service::nudge(const std::string& engine) {
  std::lock_guard lock(watching_);
  if (auto at = watches_.find(engine); at != watches_.end()) at->second->nudge();
}

void Service::nudge_waiting() {
  std::vector<std::string> waiting;
  for (const auto& record : parts_.journal.contents().engines) {
    if (!record.follow || !record.target) continue;
    if (record.serving && record.serving->id == record.target->id && record.lost.empty() && record.poisoned.empty())
      continue;
    if (residency_of(record.target->id) == fleet::Residency::resident) waiting.push_back(record.name);
  }
  for (const auto& engine : waiting) nudge(engine);
}

}  // namespace ckptd::operations
