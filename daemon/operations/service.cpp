#include "daemon/operations/service.h"

#include <unistd.h>

#include <algorithm>

#include "common/version.h"
#include "daemon/operations/show.h"

namespace ckptd::operations {

Service::Service(Parts parts, Options options)
    : parts_(std::move(parts)),
      options_(std::move(options)),
      catalogue_changes_(parts_.catalogue.on_change([this] { announce(); })),
      journal_changes_(parts_.journal.on_change([this] { announce(); })) {}

/// The custodian lives longer and would tell us of endpoints that it closes.
Service::~Service() { parts_.endpoints.on_closed({}); }

std::unique_ptr<Operations> make_operations(Parts parts, Options options) {
  auto service = std::make_unique<Service>(std::move(parts), std::move(options));
  service->recover();
  service->start_preloads();
  return service;
}

std::vector<api::Version> Service::versions() const {
  std::vector<api::Version> shown;
  for (const auto& view : parts_.catalogue.list()) shown.push_back(show(view));
  return shown;
}

Result<api::Version> Service::version(const std::string& name, const std::string& version, bool tensors) const {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(name, version));
  const auto view = parts_.catalogue.view(id);
  if (!view)
    return fail(ErrorKind::not_found, "{} is not known here: load it (ckptctl load {} DIR)", id.show(), id.show());
  auto shown = show(*view);
  if (!tensors) return shown;
  const auto lease = CKPTD_TRY(parts_.catalogue.lease(id, "a listing of its tensors"));
  for (std::size_t i = 0; i < lease->manifest.tensors.size(); ++i) {
    const auto& tensor = lease->manifest.tensors[i];
    shown.tensors.push_back({tensor.name, std::string(weights::safetensors_name(tensor.dtype)), tensor.shape,
                             tensor.extent.bytes, lease->tensor_digests[i].hex()});
  }
  return shown;
}

Result<> Service::evict(const std::string& name, const std::string& version, bool forget) {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(name, version));
  return parts_.catalogue.evict(id, forget);
}

Result<api::Version> Service::set_kept(const std::string& name, const std::string& version, bool kept) {
  const auto id = CKPTD_TRY(weights::CheckpointId::of(name, version));
  CKPTD_TRY(parts_.catalogue.set_kept(id, kept));
  return this->version(name, version, false);
}

std::uint64_t Service::trim() { return parts_.store.trim(); }

std::vector<api::Job> Service::jobs() const {
  std::vector<api::Job> shown;
  for (const auto& record : parts_.jobs.list()) shown.push_back(show(record));
  return shown;
}

Result<api::Job> Service::job(const std::string& id) const {
  if (auto record = parts_.jobs.find(id)) return show(*record);
  return fail(ErrorKind::not_found, "no job is named {}: it never was, or has left the history (ckptctl job list)", id);
}

Result<api::Job> Service::cancel_job(const std::string& id, bool force) {
  return show(CKPTD_TRY(parts_.jobs.cancel(id, force)));
}

Result<api::Job> Service::wait_job(const std::string& id, Deadline deadline) const {
  auto record = parts_.jobs.wait(id, deadline);
  if (!record && record.error().kind == ErrorKind::timed_out) return job(id);
  return show(CKPTD_TRY(std::move(record)));
}

api::Status Service::status() const {
  api::Status status;
  status.daemon_version = kVersion;
  status.pid = ::getpid();
  status.started = started_;
  status.not_ready = missing_preloads();
  status.ready = status.not_ready.empty();
  const auto usage = parts_.store.usage();
  status.budget_bytes = usage.budget_bytes;
  status.segment_bytes = usage.segment_bytes;
  status.lent_bytes = usage.lent_bytes;
  status.idle_bytes = usage.idle_bytes;
  status.locked_bytes = usage.locked_bytes;
  status.huge_page_bytes = usage.huge_page_bytes;
  status.lock = options_.lock;
  for (const auto& view : parts_.catalogue.list())
    if (view.state == catalogue::State::resident) ++status.versions_resident;
  for (const auto* device : parts_.devices)
    status.devices.push_back({device->identity().uuid, device->identity().kind, device->free_bytes().value_or(0)});
  status.engines = engines();
  for (const auto& record : parts_.jobs.running()) status.running_jobs.push_back(record.id);
  for (const auto& open : parts_.endpoints.in_custody())
    status.in_custody.push_back(open.engine.empty() ? open.device : open.device + " of " + open.engine);
  return status;
}

}  // namespace ckptd::operations
