#include "daemon/operations/targets.h"

namespace ckptd::operations {

using Verdict = fleet::Kept::Verdict;

std::optional<fleet::VersionRef> reference(const std::optional<journal::VersionRecord>& record) {
  if (!record) return std::nullopt;
  return fleet::VersionRef{record->id, record->identity, record->schema};
}

fleet::Mark mark_of(const journal::EngineRecord& engine) { return {engine.listener, engine.label}; }

void give(journal::EngineRecord& engine, const journal::VersionRecord& version, const fleet::Mark& mark,
          bool was_ordered) {
  if (engine.serving && engine.serving->id != version.id) engine.previous = engine.serving;
  engine.serving = version;
  if (was_ordered || !engine.target || engine.target->id == version.id) engine.target = version;
  // One that could not be told just now is the one that was met when the update began.
  if (mark.listener) engine.listener = mark.listener;
  engine.label = mark.label;
  engine.poisoned.clear();
  engine.held = false;
  engine.lost.clear();
  engine.changed_by_others = false;
  engine.given_asleep = false;
}

std::string label_of(const journal::VersionRecord& given, const std::string& version) {
  return given.weight_version.empty() ? version : given.weight_version;
}

void give_as_before(journal::VersionRecord& again, const std::optional<journal::VersionRecord>& before) {
  if (!before || before->id != again.id) return;
  if (again.weight_version.empty()) again.weight_version = before->weight_version;
  again.forced = again.forced || before->forced;
}

bool lose(journal::EngineRecord& engine, const fleet::Kept& kept) {
  const bool is_lost = kept.verdict != Verdict::same && kept.verdict != Verdict::unproven;
  if (!is_lost) return false;
  const auto before = engine;
  // What a restarted server holds is no mixture: it is what it was started with.
  if (kept.verdict == Verdict::restarted) {
    engine.poisoned.clear();
    engine.paused.clear();
    engine.held = false;
  }
  if (engine.serving && engine.lost.empty()) {
    engine.lost = kept.how;
    engine.changed_by_others = kept.verdict == Verdict::changed;
  } else if (kept.verdict == Verdict::restarted && (engine.changed_by_others || engine.lost == fleet::kReleased)) {
    engine.lost = kept.how;  // and what the others gave it is gone as well, or nobody has put this one to sleep
    engine.changed_by_others = false;
  }
  return engine != before;
}

void meet(journal::EngineRecord& engine, const fleet::Observation& seen) {
  const auto kept = fleet::compare(mark_of(engine), {.seen = seen});
  lose(engine, kept);
  if (kept.verdict == Verdict::restarted || kept.verdict == Verdict::changed) engine.label.clear();
  if (seen.listener) engine.listener = seen.listener;
}

journal::EngineRecord registered_again(journal::EngineRecord wanted, const journal::EngineRecord& old) {
  wanted.drained = old.drained;
  // Where it should go is said once, and then moved by hand alone; of another checkpoint it says nothing.
  if (old.checkpoint == wanted.checkpoint) {
    if (old.target) wanted.target = old.target;
    wanted.previous = old.previous;
  }
  // The same server under changed devices or another checkpoint still holds what it held; another server does not.
  if (old.kind != wanted.kind || old.endpoint != wanted.endpoint) return wanted;
  wanted.serving = old.serving;
  wanted.poisoned = old.poisoned;
  wanted.paused = old.paused;
  wanted.held = old.held;
  wanted.listener = old.listener;
  wanted.label = old.label;
  wanted.lost = old.lost;
  wanted.changed_by_others = old.changed_by_others;
  wanted.given_asleep = old.given_asleep;
  return wanted;
}

}  // namespace ckptd::operations
