#include "daemon/operations/trouble.h"

#include <algorithm>

namespace ckptd::operations {

const fleet::KnownTrouble* trouble_of(const journal::EngineRecord& engine, const fleet::Description& about,
                                      const fleet::Model& model, bool external, bool transfers) {
  const bool native = transfers && !external && engine.kind == "vllm" &&
                      (engine.transfer == "native" || (engine.transfer == "auto" && about.weight_transfer == "ipc"));
  return fleet::trouble_with({.kind = engine.kind,
                              .way = native ? fleet::Way::native : fleet::Way::worker,
                              .model = model,
                              .server = about});
}

std::string too_few_sessions(const EnginePush& push, const fleet::Description& about) {
  if (!push.external || push.external->sessions() > about.draft_models) return {};
  const auto needed = about.draft_models + 1;
  return fmt::format(
      "its server says that it has {} draft model{}, for each of which a rank opens a session after the target's, and this "
      "update serves {}: say --sessions {} (\"sessions\":{}), or the ranks that come once more end with an error",
      about.draft_models, about.draft_models == 1 ? "" : "s", push.external->sessions(), needed, needed);
}

fleet::Model Service::model_of(const journal::VersionRecord& version) const {
  auto schema = weights::Digest::from_hex(version.schema);
  if (!schema)  // a name alone, until it is met
    if (const auto id = weights::CheckpointId::parse(version.id))
      if (const auto view = parts_.catalogue.view(*id)) schema = weights::Digest::from_hex(view->schema);
  if (!schema) return {};
  const auto known = models_.find(schema->hex());
  if (known != models_.end()) return known->second;
  const auto manifest = parts_.catalogue.manifest_with_schema(*schema);
  return manifest ? models_[schema->hex()] = fleet::model_of(*manifest) : fleet::Model{};
}

const fleet::KnownTrouble* Service::trouble_with_target(const journal::EngineRecord& engine,
                                                        const Sighting& sighting) const {
  if (!engine.target || !sighting.about) return nullptr;
  return trouble_of(engine, *sighting.about, model_of(*engine.target), false, parts_.make_transfer != nullptr);
}

std::optional<fleet::Description> Service::last_description(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto at = sightings_.find(name);
  return at != sightings_.end() && at->second.described ? at->second.about : std::nullopt;
}

/// Of a server that was not looked at, it is asked for, in a time that nobody will notice where it is not ours to call.
std::optional<fleet::Description> Service::description_for_others(const EnginePush& push, fleet::Engine& engine) const {
  if (auto known = last_description(push.engine)) return known;
  auto about = engine.describe(std::min(push.options->ping_timeout, push.options->load_answer / 2));
  return about ? std::optional(*std::move(about)) : std::nullopt;
}

/// Nobody knows yet what a server is that was not looked at, or that took another's place since.
Result<> Service::heed_new_server(const EnginePush& push, fleet::Engine& engine, const fleet::Observation& seen,
                                  records::PushAccount& account) const {
  {
    std::lock_guard lock(mutex_);
    const auto at = sightings_.find(push.engine);
    if (at != sightings_.end() && at->second.described && at->second.described_listener == seen.listener) return {};
  }
  const auto about = engine.describe(push.options->ping_timeout);
  if (about) account.warnings = CKPTD_TRY(heed_trouble(push, *about));
  return {};
}

Result<std::vector<std::string>> Service::heed_trouble(const EnginePush& push, const fleet::Description& about) const {
  const auto* trouble =
      trouble_of(push.known, about, push.model, push.external != nullptr, parts_.make_transfer != nullptr);
  if (trouble != nullptr && !push.record.forced)
    return std::unexpected(fleet::refusal(*trouble, push.engine, push.record.id));
  std::vector<std::string> cautions;
  if (trouble != nullptr) cautions.push_back(fmt::format("it was forced: {}", fleet::show(*trouble)));
  if (auto sessions = too_few_sessions(push, about); !sessions.empty()) cautions.push_back(std::move(sessions));
  return cautions;
}

}  // namespace ckptd::operations
