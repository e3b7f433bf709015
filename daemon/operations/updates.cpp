#include <spdlog/spdlog.h>

#include <algorithm>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/units.h"
#include "daemon/fleet/admission.h"
#include "daemon/operations/accounts.h"
#include "daemon/operations/engine_push.h"
#include "daemon/operations/policies.h"
#include "daemon/operations/rolling.h"
#include "daemon/operations/service.h"
#include "daemon/operations/show.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

std::string key_of(const api::UpdateRequest& request, const weights::CheckpointId& id) {
  auto engines = request.engines;
  std::ranges::sort(engines);
  const auto flush = request.flush_cache ? (*request.flush_cache ? "yes" : "no") : "as usual";
  return fmt::format("update {} to [{}] bucket {} force {} flush {} pause {} on failure {} label {} out of service {} "
                     "called by {}",
                     id.show(), fmt::join(engines, ","), request.bucket_bytes.value_or(0), request.force, flush,
                     request.pause.value_or(""), request.on_failure.value_or(""), request.weight_version,
                     request.max_unavailable ? std::to_string(*request.max_unavailable) : "",
                     request.external ? fmt::format("others {}", request.sessions.value_or(1)) : "us");
}

}  // namespace

Result<api::Job> Service::update(const api::UpdateRequest& request) {
  if (!request.external) return start_update(request, {});
  return answer_with_handles(CKPTD_TRY(start_update(request, {.why = "called by somebody else"})));
}

Result<api::Job> Service::answer_with_handles(const api::Job& started) {
  const auto external = [&] {
    std::lock_guard lock(mutex_);
    const auto at = external_.find(started.id);
    return at == external_.end() ? nullptr : at->second;
  }();
  const auto deadline = Deadline::in(options()->load_answer);
  for (;;) {
    const auto now = parts_.jobs.find(started.id);
    if (!now) return started;
    if (now->error) return std::unexpected(Error(*now->error).with_fact("job", now->id));
    if (now->state != jobs::State::running) return show(*now);
    if (external && external->wait(Deadline::in(std::chrono::milliseconds(5)))) return with_handles(show(*now));
    if (!external) (void)parts_.jobs.wait(started.id, Deadline::in(std::chrono::milliseconds(5)));
    if (deadline.passed()) return with_handles(show(*now));
  }
}

api::Job Service::with_handles(api::Job job) const {
  std::lock_guard lock(mutex_);
  if (const auto at = external_.find(job.id); at != external_.end()) job.engines = at->second->handles();
  return job;
}

/// Gives the claims back when the job ends, however it does.
class Service::Released {
 public:
  Released(Service& service, const std::vector<EnginePush>& pushes) : service_(service), pushes_(pushes) {}
  ~Released() { service_.release_engines(pushes_); }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  Service& service_;
  const std::vector<EnginePush>& pushes_;
};

Result<api::Job> Service::start_update(const api::UpdateRequest& request, const Occasion& occasion) {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(request.name, request.version));
  const auto key = occasion.key.empty() ? key_of(request, id) : occasion.key;
  std::lock_guard lock(starting_);
  if (!request.idempotency_key.empty())
    if (auto earlier = parts_.jobs.with_idempotency_key(key, request.idempotency_key)) return show(*earlier);
  if (auto running = parts_.jobs.running_with_key(key); running && (occasion.by_itself || is_wanted_already(request, id)))
    return show(*running);

  auto admitted = std::make_shared<Admitted>(CKPTD_TRY(admit(request, id, occasion)));
  // Claimed before the job starts, so that of two requests one is refused and not queued.
  CKPTD_TRY(claim_engines(admitted->pushes));
  std::vector<std::string> names;
  for (const auto& push : admitted->pushes) names.push_back(push.engine);
  const auto subject = fmt::format("{} -> {}{}{}", id.show(), fmt::join(names, ", "), occasion.why.empty() ? "" : ", ",
                                   occasion.why);
  auto record = parts_.jobs.start(
      {"update", subject, key, request.idempotency_key},
      [this, admitted, id, subject](jobs::Handle& job) {
        const Released claims(*this, admitted->pushes);
        auto account = open_account(job.id(), "update", subject);
        std::vector<records::PushAccount> accounts;
        for (const auto& push : admitted->pushes) accounts.push_back(open_account(push));
        auto result = run_update(*admitted, id, job, accounts);
        close_account(account, result);
        for (auto& push : accounts)
          if (!result && !push.error && push.steps.all().empty()) push.error = result.error();  // none of them has begun
        keep_record(account, accounts);
        return result;
      });
  if (!record) {
    release_engines(admitted->pushes);
    return std::unexpected(record.error());
  }
  name_claims(admitted->pushes, record->id);
  return show(*record);
}

bool Service::is_wanted_already(const api::UpdateRequest& request, const weights::CheckpointId& id) const {
  const auto contents = parts_.journal.contents();
  std::lock_guard lock(mutex_);
  return std::ranges::none_of(contents.engines, [&](const journal::EngineRecord& engine) {
    if (std::ranges::find(request.engines, engine.name) == request.engines.end()) return false;
    const auto claim = updating_.find(engine.name);
    return claim != updating_.end() && claim->second.by_itself && (!engine.target || engine.target->id != id.show());
  });
}

Result<api::UpdatePreview> Service::preview_update(const api::UpdateRequest& request) {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(request.name, request.version));
  const auto admitted = CKPTD_TRY(admit(request, id, {}));
  api::UpdatePreview preview{.checkpoint = id.show(), .engines = {}};
  for (const auto& push : admitted.pushes) {
    CKPTD_TRY(check_not_lost(push));
    const auto arena_bytes = CKPTD_TRY(affordable_arena_bytes(push, admitted.lease->manifest));
    const auto plan = CKPTD_TRY(plan_push(push, *admitted.lease, arena_bytes, parts_.endpoints));
    api::UpdatePreview::PerEngine engine;
    engine.engine = push.engine;
    engine.fan_out = plan::name_of(plan.fan_out);
    for (const auto* device : push.devices) engine.devices.push_back(device->identity().uuid);
    engine.buckets = plan.buckets.size();
    engine.bucket_bytes = push.bucket_bytes;
    engine.arena_bytes = plan.arena_bytes;
    engine.tensor_bytes = plan.tensor_bytes;
    engine.tensors = admitted.lease->manifest.tensors.size();
    engine.copy_runs = plan.copy_runs;
    engine.serving = push.serving;
    engine.warnings = push.warnings;
    preview.engines.push_back(std::move(engine));
  }
  return preview;
}

namespace {

Error out_of_service(const journal::EngineRecord& engine, bool node) {
  return Error{ErrorKind::conflict,
               node ? fmt::format("the node was taken out of service, and engine {} with it: bring it back with ckptctl "
                                  "undrain --all",
                                  engine.name)
                    : fmt::format("engine {} was taken out of service: bring it back with ckptctl undrain {}", engine.name,
                                  engine.name)}
      .with_fact("engine", engine.name);
}

}  // namespace

Result<Service::Chosen> Service::chosen_engines(const api::UpdateRequest& request) const {
  const auto contents = parts_.journal.contents();
  const auto& known = contents.engines;
  Chosen result;
  auto& chosen = result.engines;
  if (request.engines.empty()) {
    const journal::EngineRecord* drained = nullptr;
    for (const auto& engine : known) {
      if (engine.checkpoint != request.name) continue;
      // Whoever holds the trigger is given the endpoints of all of them, or told why not.
      if (!comes_later(engine, contents.drained) || (request.external && !engine.drained && !contents.drained)) {
        chosen.push_back(engine);
        continue;
      }
      if (engine.drained || contents.drained) drained = &engine;
      result.left_out.push_back(engine);
    }
    if (chosen.empty())
      for (const auto& engine : result.left_out) CKPTD_TRY(check_not_updating(engine.name));
    if (chosen.empty() && drained != nullptr) return std::unexpected(out_of_service(*drained, contents.drained));
    if (chosen.empty() && !result.left_out.empty())
      return fail(ErrorKind::busy, "engine {} was being updated a moment ago: try again", result.left_out.front().name);
    if (chosen.empty())
      return fail(ErrorKind::not_found,
                  "no engine is registered for checkpoint {}: add one (ckptctl engine add NAME --kind sglang --endpoint "
                  "URL --checkpoint {}) or name one with --engine",
                  request.name, request.name);
    return result;
  }
  for (const auto& name : request.engines) {
    const auto at = std::ranges::find(known, name, &journal::EngineRecord::name);
    if (at == known.end()) return fail(ErrorKind::not_found, "no engine is named {} (ckptctl engine list)", name);
    if (at->drained || contents.drained) return std::unexpected(out_of_service(*at, contents.drained));
    if (std::ranges::find(chosen, name, &journal::EngineRecord::name) == chosen.end()) chosen.push_back(*at);
  }
  return result;
}

bool Service::comes_later(const journal::EngineRecord& engine, bool node_drained) const {
  if (engine.drained || node_drained) return true;
  std::lock_guard lock(mutex_);
  const auto claim = updating_.find(engine.name);
  return claim != updating_.end() && claim->second.by_itself && !claim->second.served && engine.follow;
}

void Service::move_left_out(const Admitted& admitted) {
  if (admitted.left_out.empty() || admitted.pushes.empty()) return;
  auto written = parts_.journal.change([&](journal::Contents& contents) {
    for (auto& engine : contents.engines) {
      const auto before = std::ranges::find(admitted.left_out, engine.name, &journal::EngineRecord::name);
      if (before == admitted.left_out.end() || before->checkpoint != engine.checkpoint) continue;
      const bool is_as_it_was = before->target ? engine.target && engine.target->id == before->target->id : !engine.target;
      if (is_as_it_was) engine.target = admitted.pushes.front().record;
    }
  });
  if (!written) spdlog::warn("the targets of engines that were left out could not be moved: {}", written.error().sentence);
  for (const auto& engine : admitted.left_out) nudge(engine.name);
}

Result<Service::Admitted> Service::admit(const api::UpdateRequest& request, const weights::CheckpointId& id,
                                         const Occasion& occasion) {
  const auto requested = Clock::now();
  Admitted admitted;
  // Who holds the trigger holds all of them at once: which engine is called when is theirs to decide.
  admitted.max_unavailable = request.external ? 0 : request.max_unavailable;
  std::shared_ptr<External> external;
  if (request.external) external = std::make_shared<External>(static_cast<std::uint32_t>(request.sessions.value_or(1)));
  auto chosen = CKPTD_TRY(chosen_engines(request));
  admitted.left_out = std::move(chosen.left_out);
  admitted.lease = CKPTD_TRY(parts_.catalogue.lease(id, "an update being admitted"));
  const auto& contents = *admitted.lease;
  CKPTD_TRY(parts_.endpoints.check_carriable(contents.manifest));

  const auto now = options();
  for (const auto& engine : chosen.engines) {
    journal::VersionRecord wanted{id.show(), contents.identity.hex(), contents.schema.hex(), request.weight_version,
                                  request.force};
    if (occasion.again != nullptr) give_as_before(wanted, engine.*occasion.again);
    if (wanted.weight_version == id.version) wanted.weight_version.clear();
    std::vector<std::string> differences;
    if (engine.serving)
      if (auto schema = weights::Digest::from_hex(engine.serving->schema); schema && *schema != contents.schema)
        if (auto served = parts_.catalogue.manifest_with_schema(*schema))
          differences = weights::schema_differences(contents.manifest, *served);
    CKPTD_TRY(fleet::admit({engine.name, engine.checkpoint, reference(engine.serving)}, id.name,
                           {wanted.id, wanted.identity, wanted.schema}, differences, wanted.forced));
    EnginePush push;
    push.engine = engine.name;
    push.known = engine;
    push.devices = CKPTD_TRY(devices_named(engine.devices));
    push.weight_version = label_of(wanted, id.version);
    push.record = wanted;
    push.policy = CKPTD_TRY(policy_of(engine, request));
    push.served = serves_now(engine);
    push.by_itself = occasion.by_itself;
    push.wake = fleet::wake_named(engine.wake).value_or(fleet::Wake::none);
    push.options = now;
    push.requested = requested;
    push.external = external;
    if (external) external->expect(engine.name);
    if (external && engine.transfer == "native")
      return fail(ErrorKind::unsupported,
                  "engine {} is registered with transfer native, whose calls only ckptd can make: for a trigger of others, "
                  "register it with --transfer checkpoint-engine",
                  engine.name);
    push.bucket_bytes = request.bucket_bytes.value_or(
        now->bucket_bytes ? now->bucket_bytes : plan::default_bucket_bytes(contents.manifest.tensor_bytes()));
    // A configured arena that cannot hold the largest tensor is refused before anything is touched.
    if (now->arena_bytes && now->arena_bytes < plan::smallest_arena_bytes(contents.manifest, packing(push)))
      CKPTD_TRY(plan_push(push, contents, now->arena_bytes, parts_.endpoints));
    if (engine.serving) push.serving = engine.serving->id;
    if (!engine.poisoned.empty()) push.warnings.push_back("the engine is poisoned: " + engine.poisoned);
    if (!differences.empty())
      push.warnings.push_back(fmt::format("differs from what is served: {}", fmt::join(differences, "; ")));
    push.model = [&] {
      std::lock_guard lock(mutex_);
      return model_of(wanted);
    }();
    // Of the last look, since asking takes time; another server that has come since is asked before it is touched.
    if (const auto about = last_description(engine.name)) {
      push.pipeline_parallel = about->pipeline_parallel;
      push.draft_models = about->draft_models;
      auto cautions = CKPTD_TRY(heed_trouble(push, *about));
      push.warnings.insert(push.warnings.end(), cautions.begin(), cautions.end());
    }
    admitted.pushes.push_back(std::move(push));
  }
  return admitted;
}

Result<> Service::claim_engines(const std::vector<EnginePush>& pushes) {
  std::lock_guard lock(mutex_);
  for (const auto& push : pushes) {
    CKPTD_TRY(check_unclaimed(push.engine));
    // Two that were looked at in the same moment.
    if (auto turn = push.by_itself && push.served ? turn_of(push.known) : ""; !turn.empty())
      return std::unexpected(Error{ErrorKind::busy, std::move(turn)});
  }
  for (const auto& push : pushes)
    updating_[push.engine] = {
        .by_itself = push.by_itself, .checkpoint = push.known.checkpoint, .served = push.served};
  return {};
}

void Service::name_claims(const std::vector<EnginePush>& pushes, const std::string& job) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& push : pushes)
      if (auto at = updating_.find(push.engine); at != updating_.end()) {  // else it has ended already
        at->second.job = job;
        if (push.external) external_[job] = push.external;
      }
  }
  announce();
}

void Service::release_engines(const std::vector<EnginePush>& pushes) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& push : pushes) {
      updating_.erase(push.engine);
      std::erase_if(external_, [&](const auto& each) { return each.second == push.external; });
    }
  }
  announce();
  for (const auto& push : pushes) nudge(push.engine);
}

namespace {

/// What one engine's push gave, side by side with the others'.
struct Verdict {
  std::string engine;
  Result<nlohmann::json> report;
};

Result<std::string> judge(const weights::CheckpointId& id, const std::vector<Verdict>& verdicts,
                          const std::vector<journal::EngineRecord>& left_out,
                          const nlohmann::json& agreement, double seconds) {
  auto reports = nlohmann::json::array();
  std::vector<std::string> failures;
  const Error* first = nullptr;
  for (const auto& verdict : verdicts) {
    if (verdict.report) {
      reports.push_back(*verdict.report);
      continue;
    }
    if (!first) first = &verdict.report.error();
    // Errors of ranks and of the engine's answer name it already.
    const auto name = fmt::format("engine {}", verdict.engine);
    const auto& sentence = verdict.report.error().sentence;
    failures.push_back(sentence.starts_with(name) ? sentence : fmt::format("{}: {}", name, sentence));
  }
  if (!first) {
    nlohmann::json result{
        {"checkpoint", id.show()}, {"engines", reports}, {"agreement", agreement}, {"seconds", seconds}};
    for (const auto& engine : left_out)
      result["left_out"].push_back(fmt::format(
          "engine {} is left out, since it is out of service or the daemon is at it; it is given {} when it is free",
          engine.name, id.show()));
    return result.dump();
  }
  Error error = *first;
  if (!reports.empty()) error.kind = ErrorKind::partial;
  error.sentence = verdicts.size() == 1 ? failures.front()
                                        : fmt::format("{} of {} engines were updated; {}", reports.size(),
                                                      verdicts.size(), fmt::join(failures, "; "));
  return std::unexpected(std::move(error));
}

}  // namespace

Result<std::string> Service::run_update(Admitted& admitted, const weights::CheckpointId& id, jobs::Handle& job,
                                        std::vector<records::PushAccount>& accounts) {
  const auto start = Clock::now();
  const auto lease = CKPTD_TRY(parts_.catalogue.lease(id, job.id()));
  admitted.lease = {};  // the job's own lease names the job
  parts_.catalogue.touch(id);
  UpdateJob shared(job, lease->manifest.tensor_bytes(), admitted.pushes);

  std::vector<Verdict> verdicts;
  for (const auto& push : admitted.pushes) verdicts.push_back({push.engine, nlohmann::json{}});
  std::vector<std::optional<records::PushAccount>> seconds(verdicts.size());
  std::vector<bool> served;
  for (const auto& push : admitted.pushes) served.push_back(push.served);
  const auto update_one = [&](std::size_t i) {
    auto& push = admitted.pushes[i];
    accounts[i].begin = Clock::now();
    auto& report = verdicts[i].report;
    try {
      report = update_engine(push, *lease, shared, accounts[i], seconds[i]);
    } catch (const std::exception& error) {
      report = fail(ErrorKind::internal, "its update broke off: {}", error.what());
      write_failure(push, job.id(), report.error(), was_touched(push, job.id()));
    }
    if (push.external) push.external->ended(push.engine, report ? std::nullopt : std::optional(report.error()));
    note_outcome(push, report ? std::nullopt : std::optional(report.error()));
    return report.has_value();
  };
  const auto serves_after = [&](std::size_t i) {
    const auto record = known_engine(admitted.pushes[i].engine);
    return admitted.pushes[i].served && record && record->poisoned.empty() && record->paused.empty();
  };
  for (const auto i : roll(served, admitted.max_unavailable, update_one, serves_after, job.stop()))
    verdicts[i].report = job.stop().stop_requested()
                             ? fail(ErrorKind::cancelled, "it was not begun, since the update was cancelled")
                             : fail(ErrorKind::unavailable,
                                    "it was not begun and serves what it served: engines of this update have failed and "
                                    "are out of service, and --max-unavailable allows no more");
  for (auto& second : seconds)
    if (second) accounts.push_back(*std::move(second));
  shared.tell_stages();
  parts_.catalogue.touch(id);
  if (std::ranges::all_of(verdicts, [](const auto& verdict) { return verdict.report.has_value(); }))
    move_left_out(admitted);
  std::map<std::string, std::string> disagreements;
  const auto agreement = compare_updated(job.id(), disagreements);
  for (auto& verdict : verdicts)
    if (const auto at = disagreements.find(verdict.engine); verdict.report && at != disagreements.end())
      (*verdict.report)["warnings"].push_back(at->second);
  return judge(id, verdicts, admitted.left_out, agreement, std::chrono::duration<double>(Clock::now() - start).count());
}

}  // namespace ckptd::operations
