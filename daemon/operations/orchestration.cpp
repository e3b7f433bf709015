// One engine's update, with what is around its push: its requests are stopped, it is given the version, or its last good one
// again if that leaves a mixture, and its requests go on when it holds exactly one version.
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "daemon/operations/accounts.h"
#include "daemon/operations/engine_push.h"
#include "daemon/operations/service.h"
#include "daemon/operations/standstill.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

EnginePush push_of_last_good(const EnginePush& push, const journal::VersionRecord& last_good, const std::string& version) {
  auto again = push;
  again.record = last_good;
  again.weight_version = label_of(last_good, version);
  again.by_itself = true;
  again.warnings.clear();
  again.requested = Clock::now();
  return again;
}

}  // namespace

Service::LastGood Service::last_good_of(const std::string& engine, const std::string& job) const {
  const auto record = known_engine(engine);
  if (!record || !record->serving) return {};
  const auto id = weights::CheckpointId::parse(record->serving->id);
  if (!id) return {};
  auto lease = parts_.catalogue.lease(*id, job);
  if (!lease || (*lease)->identity.hex() != record->serving->identity) return {};
  return {*id, *record->serving, *std::move(lease)};
}

Result<nlohmann::json> Service::update_engine(EnginePush& push, const catalogue::Contents& contents,
                                              UpdateJob& job, records::PushAccount& account,
                                              std::optional<records::PushAccount>& second) {
  auto engine = CKPTD_TRY(parts_.make_engine(push.known));
  if (const auto about = push.external ? description_for_others(push, *engine) : last_description(push.engine)) {
    push.pipeline_parallel = about->pipeline_parallel;
    push.draft_models = about->draft_models;
    auto cautions = heed_trouble(push, *about);
    if (!cautions) {
      Result<nlohmann::json> refused = std::unexpected(std::move(cautions).error());
      close_account(account, refused);
      return refused;
    }
    account.warnings = *std::move(cautions);
  }
  for (const auto& warning : account.warnings) spdlog::warn("{}: {}: {}", job.id(), push.engine, warning);
  if (push.external) push.external->warn(push.engine, account.warnings);
  Standstill standstill(parts_.journal, push, *engine);
  auto report = push_to_engine(push, contents, *engine, standstill, job, account);
  if (report)
    for (const auto& warning : account.warnings) (*report)["warnings"].push_back(warning);
  close_account(account, report);

  const auto holds_mixture = [&] {
    const auto record = known_engine(push.engine);
    return record && !record->poisoned.empty();
  };
  // An engine that was poisoned before and was not touched now is one, too.
  fleet::Ended ended{.succeeded = report.has_value(),
                     .mixture = !report && holds_mixture(),
                     .cancelled = job.stop().stop_requested()};
  LastGood last_good;
  // Of a version that it has just failed to take, another attempt at once is no remedy: the life cycle makes one later. Nor
  // is there one where the engine is not ours to call.
  if (ended.mixture && account.touched && !push.external && push.serving != push.record.id) last_good = last_good_of(push.engine, job.id());
  ended.last_good_is_resident = last_good.lease.has_value();
  auto next = fleet::after(ended, push.policy.on_failure);
  if (next == fleet::After::repush) {
    spdlog::warn("{}: {} is given {} again", job.id(), push.engine, last_good.record.id);
    const auto again = push_of_last_good(push, last_good.record, last_good.id.version);
    second = open_account(again);
    const auto repushed = push_to_engine(again, **last_good.lease, *engine, standstill, job, *second);
    close_account(*second, repushed);
    ended = {.succeeded = repushed.has_value(),
             .mixture = !repushed && holds_mixture(),
             .cancelled = job.stop().stop_requested(),
             .repushed = true};
    next = fleet::after(ended, push.policy.on_failure);
    report.error().sentence += repushed
                                   ? fmt::format("; it was given {} again, and holds that", last_good.record.id)
                                   : fmt::format("; it could not be given {} again either: {}", last_good.record.id,
                                                 repushed.error().sentence);
  }
  if (next == fleet::After::hold) {
    if (push.policy.on_failure == fleet::OnFailure::hold) write_held(push.engine);
    if (standstill.ours())
      report.error().sentence += "; it stays paused, since it may hold a mixture of versions: the update that heals it "
                                 "resumes it";
    return report;
  }
  const auto resumed = standstill.end();
  if (resumed && ended.succeeded && !push.external) {
    auto told = ended.repushed ? take_checksums(push, last_good.record, **last_good.lease, *engine, job)
                               : take_checksums(push, push.record, contents, *engine, job);
    if (report && told.contains("complaint")) (*report)["warnings"].push_back(told["complaint"]);
    told.erase("complaint");
    if (report) (*report)["checksums"] = std::move(told);
  }
  if (resumed) return report;
  spdlog::error("{}: {}", job.id(), resumed.error().sentence);
  if (report)
    return std::unexpected(
        resumed.error().within(fmt::format("engine {} holds {} in full", push.engine, push.record.id)));
  report.error().sentence += fmt::format("; {}", resumed.error().sentence);
  return report;
}

bool Service::serves_now(const journal::EngineRecord& engine) const {
  const auto drained = parts_.journal.contents().drained;
  std::lock_guard lock(mutex_);
  const auto at = sightings_.find(engine.name);
  return fleet::decide(facts_of(engine, drained, at == sightings_.end() ? Sighting{} : at->second, false)).ready;
}

std::vector<std::string> Service::pause_notes() const {
  std::vector<std::string> notes;
  for (const auto& engine : parts_.journal.contents().engines)
    if (engine.pause == "none")
      notes.push_back(fmt::format("engine {} is not paused for updates (pause is none): while one runs, and after one that "
                                  "failed, it may answer with a mixture of versions",
                                  engine.name));
  return notes;
}

void Service::write_held(const std::string& engine) {
  auto written = parts_.journal.note([&](journal::Contents& contents) {
    for (auto& each : contents.engines)
      if (each.name == engine) each.held = true;
  });
  if (!written) spdlog::warn("that {} is to be held could not be recorded: {}", engine, written.error().sentence);
}

/// What an update, or a daemon before this one, left to be resumed. Claimed as for an update, which would pause it anew, but
/// without a lock: a server that stalls here delays nobody else.
void Service::resume_engine(const std::string& engine) {
  {
    std::lock_guard starting(starting_);
    std::lock_guard lock(mutex_);
    if (!updating_.try_emplace(engine, Claim{.by_itself = true}).second) return;
  }
  const auto outcome = try_resume(engine);
  {
    std::lock_guard lock(mutex_);
    updating_.erase(engine);
  }
  if (!outcome) note_refusal(engine, outcome.error());
}

Result<> Service::try_resume(const std::string& engine) {
  const auto record = CKPTD_TRY(known_engine(engine));
  // Since it was looked at an update may have left it with a mixture.
  if (record.paused.empty() || !record.poisoned.empty()) return {};
  auto server = CKPTD_TRY(parts_.make_engine(record));
  if (auto resumed = server->resume(options()->ping_timeout); !resumed)
    return std::unexpected(resumed.error().within(fmt::format("engine {} could not be resumed", engine)));
  CKPTD_TRY(parts_.journal.note([&](journal::Contents& contents) {
    for (auto& each : contents.engines)
      if (each.name == engine) each.paused.clear();
  }));
  spdlog::info("engine {} goes on, after an update that had paused it", engine);
  return {};
}

}  // namespace ckptd::operations
