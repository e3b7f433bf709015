#include "daemon/operations/trouble.h"

#include <algorithm>

#include "daemon/fleet/suitability.h"

namespace ckptd::operations {

bool goes_natively(const journal::EngineRecord& engine, const fleet::Description& about, std::size_t devices) {
  if (engine.kind != "vllm" || engine.transfer == "checkpoint-engine") return false;
  if (engine.transfer == "native" || about.weight_transfer == kByIpc) return true;
  return about.weight_transfer == kByNccl && (devices == 1 || !about.has_extension);
}

const fleet::KnownTrouble* trouble_of(const journal::EngineRecord& engine, const fleet::Description& about,
                                      const fleet::Model& model, fleet::Way way) {
  return fleet::trouble_with({.kind = engine.kind, .way = way, .model = model, .server = about});
}

fleet::Way Service::way_of(const journal::EngineRecord& engine, const fleet::Description& about, bool external) const {
  const auto devices = devices_named(engine.devices);
  const bool native = parts_.make_transfer && !external && devices && goes_natively(engine, about, devices->size());
  return native ? fleet::Way::native : fleet::Way::worker;
}

std::optional<Error> Service::unsuitable(const journal::EngineRecord& engine, const fleet::Description& about) const {
  const auto devices = devices_named(engine.devices);
  return devices ? fleet::unsuitable(engine.kind, about, devices->size()) : std::nullopt;
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
  return trouble_of(engine, *sighting.about, model_of(*engine.target), way_of(engine, *sighting.about, false));
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
  // Who calls the engine themselves may have ways to it that its server does not tell of.
  // And what its own transfer lacks that says better itself.
  const bool by_transfer = push.known.transfer == "native" && about.unsuitable;
  if (!push.external && !push.record.forced && !by_transfer)
    if (const auto why_not = unsuitable(push.known, about))
      return std::unexpected(why_not->within(fmt::format("engine {} cannot be updated", push.engine)));
  const auto* trouble = trouble_of(push.known, about, push.model, way_of(push.known, about, push.external != nullptr));
  if (trouble != nullptr && !push.record.forced)
    return std::unexpected(fleet::refusal(*trouble, push.engine, push.record.id));
  std::vector<std::string> cautions;
  if (trouble != nullptr) cautions.push_back(fmt::format("it was forced: {}", fleet::show(*trouble)));
  if (auto sessions = too_few_sessions(push, about); !sessions.empty()) cautions.push_back(std::move(sessions));
  return cautions;
}

}  // namespace ckptd::operations
