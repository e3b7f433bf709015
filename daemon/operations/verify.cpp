// What engines hold, as they tell it themselves: taken after each update, and compared when somebody asks.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/units.h"
#include "daemon/operations/checksums.h"
#include "daemon/operations/engine_push.h"
#include "daemon/operations/service.h"
#include "daemon/operations/show.h"
#include "daemon/operations/spots.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

using nlohmann::json;
using Verdict = fleet::Kept::Verdict;

json ranks_of(const std::vector<fleet::RankChecksums>& checksums) {
  auto ranks = json::array();
  for (const auto& rank : checksums) ranks.push_back({{"rank", rank.rank}, {"tensors", rank.by_tensor.size()}});
  return ranks;
}

json shown(const TakenChecksums& other, const fleet::Comparison& comparison) {
  return {{"engine", other.engine},
          {"job", other.job},
          {"taken", api::show_time(std::chrono::floor<std::chrono::seconds>(other.at))},
          {"ranks", comparison.ranks},
          {"tensors", comparison.tensors}};
}

/// Does the engine hold one version in full, as far as is known, and is it the one of these checksums?
bool still_holds(const journal::EngineRecord& engine, const TakenChecksums& taken) {
  return engine.serving && engine.serving->identity == taken.version.identity && engine.poisoned.empty() &&
         engine.lost.empty();
}

Result<> check_holds_one_version(const journal::EngineRecord& engine) {
  if (!engine.poisoned.empty())
    return fail(ErrorKind::conflict, "engine {} is poisoned, there is nothing that it should be equal to: {}", engine.name,
                engine.poisoned);
  if (engine.serving && engine.lost.empty()) return {};
  return fail(ErrorKind::conflict, "engine {} holds no version that it was given{}{}: update it first (ckptctl update)",
              engine.name, engine.lost.empty() ? "" : ", ", engine.lost);
}

/// It is asked only while it is awake: the memory that it would read may not be there.
Result<> check_is_the_same(const journal::EngineRecord& engine, const fleet::Observation& seen) {
  using State = fleet::Observation::State;
  if (seen.state == State::asleep || seen.state == State::starting)
    return fail(ErrorKind::conflict, "engine {} is {}, what it holds can be verified once it serves", engine.name,
                fleet::name_of(seen.state));
  const auto kept = fleet::compare(mark_of(engine), {.seen = seen});
  if (kept.verdict == Verdict::same || kept.verdict == Verdict::unproven) return {};
  return fail(ErrorKind::conflict, "engine {} does not hold what it was given: {}", engine.name, kept.how);
}

}  // namespace

std::string Service::software_of(const std::string& engine) const {
  std::lock_guard lock(mutex_);
  const auto at = sightings_.find(engine);
  return at == sightings_.end() || !at->second.about ? "" : at->second.about->version;
}

json Service::take_checksums(const EnginePush& push, const journal::VersionRecord& version,
                             const catalogue::Contents& contents, fleet::Engine& engine, UpdateJob& job) {
  const auto not_taken = [&](std::string why) {
    checksums_.drop(push.engine);
    return json{{"ranks", json::array()}, {"why", std::move(why)}};
  };
  const auto keep = [&](std::vector<fleet::RankChecksums> ranks, bool of_spots) {
    checksums_.keep({.engine = push.engine,
                     .kind = push.known.kind,
                     .version = version,
                     .server = software_of(push.engine),
                     .job = job.id(),
                     .at = std::chrono::system_clock::now(),
                     .ranks = std::move(ranks),
                     .of_spots = of_spots});
  };
  job.stage(push.engine, "taking its checksums");
  auto ranks = engine.checksums(push.options->engine_step);
  if (!ranks && ranks.error().kind == ErrorKind::unsupported) {
    auto told = not_taken(ranks.error().sentence);
    job.stage(push.engine, "comparing values of small tensors");
    auto spots = check_spots(engine, contents, push.options->engine_step);
    told["spot_check"] = spots ? shown(*spots) : json{{"why", spots.error().sentence}};
    if (!spots) return told;
    if (auto complaint = complaint_about(*spots, version.id); !complaint.empty()) {
      spdlog::warn("{}: {}: {}", job.id(), push.engine, complaint);
      told["complaint"] = std::move(complaint);
    }
    keep(std::move(spots->ranks), true);
    return told;
  }
  if (!ranks) {
    spdlog::warn("{}: {} has its weights, and its checksums could not be taken: {}", job.id(), push.engine,
                 ranks.error().sentence);
    return not_taken(ranks.error().sentence);
  }
  if (const auto bytes = fleet::bytes_of(*ranks); bytes > kMostChecksumBytes)
    return not_taken(fmt::format("they are {}, and more than {} of one engine are not kept", show_bytes(bytes),
                                 show_bytes(kMostChecksumBytes)));
  json told{{"ranks", ranks_of(*ranks)}, {"why", ""}};
  keep(*std::move(ranks), false);
  return told;
}

json Service::compare_updated(const std::string& job, std::map<std::string, std::string>& disagreements) const {
  std::vector<std::shared_ptr<const TakenChecksums>> taken;
  for (auto& each : checksums_.all())
    if (each->job == job) taken.push_back(std::move(each));
  auto compared = json::array();
  for (std::size_t i = 1; i < taken.size(); ++i) {
    const auto first = std::find_if(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(i),
                                    [&](const auto& other) { return comparable(*taken[i], *other); });
    if (first == taken.begin() + static_cast<std::ptrdiff_t>(i)) continue;
    const auto comparison = fleet::compare(taken[i]->ranks, (*first)->ranks);
    compared.push_back({{"engines", {(*first)->engine, taken[i]->engine}},
                        {"agree", comparison.equal()},
                        {"differences", fleet::show(comparison)}});
    if (comparison.equal()) continue;
    auto sentence = fmt::format(
        "it was given {} with engine {}, and their ranks do not hold the same: of {}, {}. One of the two holds something "
        "else: look at both servers' logs for a failed post hook, and update both again",
        taken[i]->version.id, (*first)->engine, taken[i]->engine, fleet::show(comparison));
    spdlog::warn("{}: {}: {}", job, taken[i]->engine, sentence);
    disagreements[taken[i]->engine] = std::move(sentence);
  }
  return compared;
}

// ---- on demand ----

std::uint64_t Service::touched_count(const std::string& engine) const {
  std::lock_guard lock(mutex_);
  return sightings_[engine].touched;
}

Result<> Service::check_untouched(const std::string& engine, std::uint64_t touched) const {
  std::lock_guard lock(mutex_);
  if (!updating_.contains(engine) && sightings_[engine].touched == touched) return {};
  return fail(ErrorKind::conflict, "engine {} was updated or registered meanwhile: verify it again", engine);
}

Result<api::Job> Service::verify(const std::string& engine) {
  std::lock_guard lock(starting_);
  const auto key = "verify " + engine;
  if (auto running = parts_.jobs.running_with_key(key)) return show(*running);
  const auto record = CKPTD_TRY(known_engine(engine));
  CKPTD_TRY(check_not_updating(engine));
  CKPTD_TRY(check_holds_one_version(record));
  const auto started = CKPTD_TRY(
      parts_.jobs.start({"verify", engine, key, ""}, [this, engine](jobs::Handle& job) { return run_verify(engine, job); }));
  return show(started);
}

Result<TakenChecksums> Service::ask_checksums(const journal::EngineRecord& record, const std::string& job,
                                              std::optional<SpotCheck>& spots) {
  const auto now = options();
  auto server = CKPTD_TRY(parts_.make_engine(record));
  const auto seen = CKPTD_TRY(server->observe(now->ping_timeout));
  CKPTD_TRY(check_is_the_same(record, seen));
  auto ranks = server->checksums(now->engine_step);
  if (!ranks && ranks.error().kind == ErrorKind::unsupported) {
    const auto cannot = [&](std::string_view more) {
      return fail(ErrorKind::unsupported, "engine {} cannot be verified: {}; nor by values of small tensors: {}", record.name,
                  ranks.error().sentence, more);
    };
    const auto id = CKPTD_TRY(weights::CheckpointId::parse(record.serving->id));
    const auto lease = parts_.catalogue.lease(id, job);
    if (!lease || (*lease)->identity.hex() != record.serving->identity)
      return cannot(fmt::format("{} is not resident, so that there is nothing to compare them with", id.show()));
    auto checked = check_spots(*server, **lease, now->engine_step);
    if (!checked && checked.error().kind == ErrorKind::unsupported) return cannot(checked.error().sentence);
    spots = CKPTD_TRY(std::move(checked));
    ranks = spots->ranks;
  }
  if (!ranks) return std::unexpected(std::move(ranks).error());
  return TakenChecksums{.engine = record.name,
                        .kind = record.kind,
                        .version = *record.serving,
                        .server = software_of(record.name),
                        .job = job,
                        .at = std::chrono::system_clock::now(),
                        .ranks = *std::move(ranks),
                        .of_spots = spots.has_value()};
}

Result<std::string> Service::run_verify(const std::string& engine, jobs::Handle& job) {
  const auto start = Clock::now();
  const auto touched = touched_count(engine);
  const auto record = CKPTD_TRY(known_engine(engine));
  CKPTD_TRY(check_holds_one_version(record));
  job.stage("waiting for its checksums");
  std::optional<SpotCheck> spots;
  const auto now = CKPTD_TRY(ask_checksums(record, job.id(), spots));
  CKPTD_TRY(check_untouched(engine, touched));
  if (job.stop().stop_requested()) return fail(ErrorKind::cancelled, "the verification was cancelled");

  const auto records = parts_.journal.contents().engines;
  auto compared = json::array(), not_comparable = json::array();
  std::vector<std::string> complaints;
  std::string changed, differs_from_other;  // since its own update; both are among the complaints
  for (const auto& other : checksums_.all()) {
    const auto at = std::ranges::find(records, other->engine, &journal::EngineRecord::name);
    if (at == records.end() || !still_holds(*at, *other) || other->version.identity != now.version.identity) continue;
    const bool itself = other->engine == engine;
    if (itself ? other->of_spots != now.of_spots : !comparable(now, *other)) {
      not_comparable.push_back(other->engine);
      continue;
    }
    const auto comparison = fleet::compare(now.ranks, other->ranks);
    compared.push_back(shown(*other, comparison));
    if (comparison.equal()) continue;
    const auto what = fleet::show(comparison);
    complaints.push_back(itself ? fmt::format("what it holds has changed since {}: {}", other->job, what)
                                : fmt::format("it does not hold what engine {} does, which serves the same: {}",
                                              other->engine, what));
    (itself ? changed : differs_from_other) = complaints.back();
  }
  if (spots)
    if (auto complaint = complaint_about(*spots, now.version.id); !complaint.empty())
      complaints.push_back(std::move(complaint));
  if (compared.empty() && !spots)
    return fail(ErrorKind::not_found,
                "engine {} tells checksums of {} ranks, and there is nothing to compare them with: this ckptd has given it "
                "nothing and has taken none of another engine that serves {} in the same way. Update it again (ckptctl update {} "
                "--engine {}), then verify",
                engine, now.ranks.size(), now.version.id, now.version.id, engine);
  if (!complaints.empty()) {
    const bool poisoned =
        !changed.empty() && write_changed(engine, touched, fmt::format("{}: {}", job.id(), changed));
    return std::unexpected(Error{ErrorKind::peer_failed,
                                 fmt::format("engine {} was given {} and does not hold it as it should: {}. {}", engine,
                                             now.version.id, fmt::join(complaints, "; "),
                                             poisoned           ? "It is poisoned now: a full update heals it"
                                             : !changed.empty() ? "It could not be marked as poisoned: update it again"
                                             : !differs_from_other.empty()
                                                 ? "One of the two holds something else, and nothing was done: update both "
                                                   "again"
                                                 : "It keeps them in a form of its own, or they were not loaded, and nothing "
                                                   "was done: look at its log, and update it again")}
                               .with_fact("engine", engine));
  }
  json result{{"engine", engine},
              {"checkpoint", now.version.id},
              {"ranks", ranks_of(now.ranks)},
              {"compared", compared},
              {"not_comparable", not_comparable},
              {"seconds", std::chrono::duration<double>(Clock::now() - start).count()}};
  if (spots) result["spot_check"] = shown(*spots);
  return result.dump();
}

bool Service::write_changed(const std::string& engine, std::uint64_t touched, const std::string& why) {
  {
    std::lock_guard starting(starting_);  // no update of this engine begins meanwhile
    if (!check_untouched(engine, touched)) return false;
    auto written = parts_.journal.change([&](journal::Contents& contents) {
      for (auto& each : contents.engines)
        if (each.name == engine) each.poisoned = why;
    });
    if (!written) {
      spdlog::error("that {} is poisoned could not be recorded: {}", engine, written.error().sentence);
      return false;
    }
    spdlog::error("{} is poisoned: {}", engine, why);
  }
  nudge(engine);
  return true;
}

}  // namespace ckptd::operations
