#include <algorithm>

#include "common/http_client.h"
#include "daemon/operations/policies.h"
#include "daemon/operations/service.h"
#include "daemon/operations/targets.h"

namespace ckptd::operations {
namespace {

Result<> check_engine_name(const std::string& name) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  const bool is_directory = name == "." || name == "..";  // which clients take out of a URL
  if (!name.empty() && name.size() <= 64 && std::ranges::all_of(name, allowed) && !is_directory) return {};
  return fail(ErrorKind::invalid_argument,
              "'{}' is not an engine name: write 1 to 64 letters, digits, '.', '_' and '-', as in sglang-0", name);
}

journal::EngineRecord record_of(const api::EngineRequest& request) {
  return {.name = request.name,
          .kind = request.kind,
          .endpoint = request.endpoint,
          .checkpoint = request.checkpoint,
          .devices = request.devices,
          .follow = request.follow,
          .wake = request.wake,
          .pause = request.pause,
          .flush_cache = request.flush_cache,
          .on_failure = request.on_failure,
          .api_key_file = request.api_key_file,
          .admin_key_file = request.admin_key_file,
          .transfer = request.transfer};
}

}  // namespace

Result<std::vector<device::Device*>> Service::devices_named(const std::vector<std::string>& uuids) const {
  if (uuids.empty()) return parts_.devices;
  std::vector<device::Device*> chosen;
  for (const auto& uuid : uuids) {
    auto at = std::ranges::find(parts_.devices, uuid, [](const auto* device) { return device->identity().uuid; });
    if (at == parts_.devices.end()) {
      std::string known;
      for (const auto* device : parts_.devices) known += (known.empty() ? "" : ", ") + device->identity().uuid;
      return fail(ErrorKind::invalid_argument, "there is no device {} here; there are {}", uuid, known);
    }
    if (std::ranges::find(chosen, *at) != chosen.end())
      return fail(ErrorKind::invalid_argument, "device {} is named twice", uuid);
    chosen.push_back(*at);
  }
  return chosen;
}

std::vector<api::Engine> Service::engines() const {
  const auto contents = parts_.journal.contents();
  std::vector<api::Engine> shown;
  for (const auto& record : contents.engines) shown.push_back(show_engine(record, contents.drained));
  std::ranges::sort(shown, {}, &api::Engine::name);
  return shown;
}

Result<journal::EngineRecord> Service::known_engine(const std::string& engine) const {
  const auto records = parts_.journal.contents().engines;
  const auto at = std::ranges::find(records, engine, &journal::EngineRecord::name);
  if (at == records.end()) return fail(ErrorKind::not_found, "no engine is named {} (ckptctl engine list)", engine);
  return *at;
}

Result<api::Engine> Service::engine(const std::string& name) const {
  return show_engine(CKPTD_TRY(known_engine(name)), parts_.journal.contents().drained);
}

/// All that can be said of it without changing anything.
Result<> Service::check_engine(const api::EngineRequest& request) const {
  CKPTD_TRY(check_engine_name(request.name));
  CKPTD_TRY(weights::parse_checkpoint_name(request.checkpoint));
  CKPTD_TRY(parts_.make_engine(record_of(request)));
  if (request.transfer == "native" && request.kind != "vllm")
    return fail(ErrorKind::invalid_argument, "an engine of kind {} has no weight transfer of its own: leave transfer at auto",
                request.kind);
  CKPTD_TRY(devices_named(request.devices));
  if (!fleet::wake_named(request.wake))
    return fail(ErrorKind::invalid_argument, "'{}' is not what may be woken of a sleeping engine: write none, weights or all",
                request.wake);
  if (request.kind == "sglang" && request.wake != "none")
    return fail(ErrorKind::unsupported,
                "SGLang does not tell whether its memory is released, so ckptd cannot know when to wake it: leave wake at none, "
                "and resume its memory (POST /resume_memory_occupation) before an update of it");
  CKPTD_TRY(policy_of(record_of(request), {}));
  if (!request.target.empty()) CKPTD_TRY(check_target(request.target, request.checkpoint));
  return check_not_updating(request.name);
}

Result<api::Engine> Service::put_engine(const api::EngineRequest& request) {
  CKPTD_TRY(check_engine(request));
  auto wanted = record_of(request);
  if (!request.target.empty()) wanted.target = journal::VersionRecord{request.target, {}, {}};
  {
    std::lock_guard starting(starting_);  // no update of this engine begins meanwhile
    CKPTD_TRY(check_not_updating(request.name));
    CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) {
      auto at = std::ranges::find(contents.engines, request.name, &journal::EngineRecord::name);
      if (at == contents.engines.end()) {
        contents.engines.push_back(wanted);
        return;
      }
      if (at->kind != wanted.kind || at->endpoint != wanted.endpoint) forget_sighting(request.name);
      *at = registered_again(wanted, *at);
    }));
    watch_engine(request.name);
  }
  return engine(request.name);
}

Result<> Service::remove_engine(const std::string& name) {
  {
    std::lock_guard starting(starting_);
    CKPTD_TRY(check_not_updating(name));
    bool found = false;
    CKPTD_TRY(parts_.journal.change([&](journal::Contents& contents) {
      found = std::erase_if(contents.engines, [&](const auto& engine) { return engine.name == name; }) > 0;
    }));
    if (!found) return fail(ErrorKind::not_found, "no engine is named {} (ckptctl engine list)", name);
    std::lock_guard lock(watching_);
    if (auto node = watches_.extract(name)) {
      node.mapped()->request_stop();  // a look may be under way, and nobody waits for that here
      ended_watches_.push_back(std::move(node.mapped()));
    }
  }
  checksums_.drop(name);
  std::lock_guard lock(mutex_);
  sightings_.erase(name);
  return {};
}

Result<> Service::check_not_lost(const EnginePush& push) const {
  for (const auto* device : push.devices)
    if (const auto lost = device->lost())
      return std::unexpected(lost->error.within(fmt::format("engine {} cannot be updated, its {} is lost since {}", push.engine,
                                                            device->identity().uuid, api::show_time(lost->since))));
  return {};
}

Result<> Service::check_not_updating(const std::string& engine) const {
  std::lock_guard lock(mutex_);
  return check_unclaimed(engine);
}

Result<> Service::check_unclaimed(const std::string& engine) const {
  const auto at = updating_.find(engine);
  if (at == updating_.end()) return {};
  const auto& job = at->second.job;
  if (job.empty())
    return std::unexpected(Error{ErrorKind::busy, fmt::format("engine {} is taken for a moment, because an update of it "
                                                              "begins or it is resumed after one: try again",
                                                              engine)}
                               .with_fact("engine", engine));
  return std::unexpected(Error{ErrorKind::busy, fmt::format("engine {} is being updated by job {}: wait for it "
                                                            "(ckptctl wait job/{}) or cancel it",
                                                            engine, job, job)}
                             .with_fact("job", job)
                             .with_fact("engine", engine));
}

}  // namespace ckptd::operations
