// What an operator says of engines: where they should be, that they go back, and that they are out of service.
#include <fmt/ranges.h>

#include <algorithm>

#include "daemon/operations/service.h"
#include "daemon/operations/show.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {

Result<> Service::check_target(const std::string& target, const std::string& checkpoint) const {
  const auto id = CKPTD_TRY(weights::CheckpointId::parse(target));
  if (id.name == checkpoint) return {};
  return fail(ErrorKind::conflict,
              "{} cannot be the target of an engine that is registered for checkpoint {}: register it again (ckptctl "
              "engine add)",
              target, checkpoint);
}

namespace {

journal::VersionRecord record_of_version(const catalogue::Catalogue& catalogue, const weights::CheckpointId& id) {
  const auto view = catalogue.view(id);
  if (!view) return {id.show(), {}, {}};  // a name until it is met
  return {id.show(), view->identity, view->schema};
}

}  // namespace

Result<api::Engine> Service::change_engine(const std::string& name, const api::EngineChange& change) {
  {
    std::lock_guard starting(starting_);  // no update of this engine begins meanwhile
    const auto record = CKPTD_TRY(known_engine(name));
    CKPTD_TRY(check_target(change.target, record.checkpoint));
    CKPTD_TRY(check_not_updating(name));
    const auto id = CKPTD_TRY(weights::CheckpointId::parse(change.target));
    parts_.catalogue.touch(id);  // what is about to be wanted makes no room for others
    auto target = record_of_version(parts_.catalogue, id);
    for (const auto& known : {record.target, record.serving, record.previous}) give_as_before(target, known);
    CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) {
      for (auto& engine : contents.engines)
        if (engine.name == name) engine.target = target;
    }));
    std::lock_guard lock(mutex_);
    auto& sighting = sightings_[name];  // a new order is worth a new attempt at once
    sighting.failures = 0;
    sighting.retry = {};
    sighting.last_error.clear();
  }
  nudge(name);
  return engine(name);
}

Result<api::Job> Service::roll_back(const api::RollbackRequest& request) {
  // What it goes back to has changed when it has succeeded: who repeats the request means the job that they began.
  auto named = request.engines;
  std::ranges::sort(named);
  const auto key = fmt::format("rollback of [{}] force {}", fmt::join(named, ","), request.force);
  if (!request.idempotency_key.empty())
    if (auto earlier = parts_.jobs.with_idempotency_key(key, request.idempotency_key)) return show(*earlier);
  if (auto running = parts_.jobs.running_with_key(key)) return show(*running);
  std::vector<journal::EngineRecord> engines;
  if (request.engines.empty())
    for (const auto& engine : parts_.journal.contents().engines)
      if (engine.previous) engines.push_back(engine);
  for (const auto& name : request.engines) engines.push_back(CKPTD_TRY(known_engine(name)));
  if (engines.empty())
    return fail(ErrorKind::not_found, "no engine was ever given another version than the one that it has: there is "
                                      "nothing to go back to");
  api::UpdateRequest update;
  for (const auto& engine : engines) {
    if (!engine.previous)
      return fail(ErrorKind::not_found,
                  "engine {} has no earlier version to go back to: ckptctl engine set {} --target NAME@VERSION moves it to "
                  "any other",
                  engine.name, engine.name);
    if (engine.previous->id != engines.front().previous->id)
      return fail(ErrorKind::conflict,
                  "engine {} goes back to {} and engine {} to {}: name those that go together with --engine",
                  engines.front().name, engines.front().previous->id, engine.name, engine.previous->id);
    if (!request.engines.empty() || !comes_later(engine, false)) update.engines.push_back(engine.name);
  }
  if (update.engines.empty()) update.engines.push_back(engines.front().name);  // which is told to be busy
  const auto previous = *engines.front().previous;
  if (residency_of(previous.id) != fleet::Residency::resident)
    return fail(ErrorKind::not_found, "{} is not resident any more: load it again (ckptctl load {} DIR), then roll back",
                previous.id, previous.id);
  const auto id = CKPTD_TRY(weights::CheckpointId::parse(previous.id));
  update.name = id.name;
  update.version = id.version;
  update.force = request.force;
  update.idempotency_key = request.idempotency_key;
  auto job = CKPTD_TRY(start_update(update, {.why = "a rollback", .key = key, .again = &journal::EngineRecord::previous}));
  // At once, and not with the success as an update's: whoever rolls back wants the other version in no case. The job may
  // have ended already, which wrote the same.
  CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) {
    for (auto& engine : contents.engines)
      for (const auto& before : engines)
        if (before.name == engine.name) {
          engine.target = before.previous;
          if (request.force) engine.target->forced = true;
        }
  }));
  for (const auto& engine : engines) nudge(engine.name);
  return job;
}

Result<api::Engine> Service::set_drained(const std::string& name, bool drained) {
  CKPTD_TRY(known_engine(name));
  CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) {
    for (auto& engine : contents.engines)
      if (engine.name == name) engine.drained = drained;
  }));
  nudge(name);
  return engine(name);
}

Result<api::Status> Service::set_node_drained(bool drained) {
  CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) { contents.drained = drained; }));
  for (const auto& engine : parts_.journal.contents().engines) nudge(engine.name);
  return status();
}

}  // namespace ckptd::operations
