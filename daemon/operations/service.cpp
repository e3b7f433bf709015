#include "daemon/operations/service.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "common/units.h"
#include "common/version.h"
#include "daemon/operations/show.h"

namespace ckptd::operations {

Service::Service(Parts parts, Options options)
    : parts_(std::move(parts)),
      options_(std::make_shared<const Options>(std::move(options))),
      arenas_(options_->keep_arena),
      archive_(options_->job_history, options_->record_memory_bytes),
      catalogue_changes_(parts_.catalogue.on_change([this] {
        announce();
        nudge_waiting();
      })),
      journal_changes_(parts_.journal.on_change([this] { announce(); })) {}

/// The custodian lives longer and would tell us of endpoints that it closes.
Service::~Service() {
  stop_watching();
  catalogue_changes_ = {};  // which would nudge threads that end now
  parts_.endpoints.on_closed({});
}

std::unique_ptr<Operations> make_operations(Parts parts, Options options) {
  auto service = std::make_unique<Service>(std::move(parts), std::move(options));
  service->recover();
  service->reserve_arenas();
  service->start_preloads();
  service->start_probe();
  return service;
}

/// Engines that start after us and size their caches by what is free then leave room for it.
void Service::reserve_arenas() {
  const auto bytes = options_->arena_bytes;
  if (!options_->keep_arena || bytes == 0) return;
  for (auto* device : parts_.devices) {
    auto arena = arenas_.borrow(*device, bytes, bytes);
    if (arena)
      std::move(*arena).give_back();
    else
      spdlog::warn("no arena is reserved on {}, each update tries again: {}", device->identity().uuid, arena.error().sentence);
  }
}

std::shared_ptr<const Options> Service::options() const {
  std::lock_guard lock(mutex_);
  return options_;
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

api::Trimmed Service::trim() {
  // Communicators first: they go on their own thread, while the memory is given back.
  api::Trimmed trimmed;
  if (parts_.drop_idle_groups) trimmed.communicators = parts_.drop_idle_groups();
  trimmed.bytes = parts_.store.trim() + arenas_.trim();
  return trimmed;
}

std::vector<api::Job> Service::jobs() const {
  std::vector<api::Job> shown;
  for (const auto& record : parts_.jobs.list()) shown.push_back(show(record));
  return shown;
}

Result<api::Job> Service::job(const std::string& id) const {
  if (auto record = parts_.jobs.find(id)) return with_handles(with_record(show(*record)));
  return fail(ErrorKind::not_found, "no job is named {}: it never was, or has left the history (ckptctl job list)", id);
}

Result<api::Job> Service::cancel_job(const std::string& id, bool force) {
  return show(CKPTD_TRY(parts_.jobs.cancel(id, force)));
}

Result<api::Job> Service::wait_job(const std::string& id, Deadline deadline) const {
  auto record = parts_.jobs.wait(id, deadline);
  if (!record && record.error().kind == ErrorKind::timed_out) return job(id);
  const auto ended = CKPTD_TRY(std::move(record));
  return with_record(show(ended));
}

namespace {

/// What the resident versions would hold if each had all its bytes to itself, less what they do hold.
std::uint64_t saved_by_sharing(const std::vector<catalogue::View>& views) {
  std::uint64_t alone_bytes = 0, held_bytes = 0;
  std::set<std::uint32_t> seen;
  for (const auto& view : views) {
    alone_bytes += view.alone_bytes;
    for (const auto& segment : view.segments)
      if (seen.insert(segment.number).second) held_bytes += segment.bytes;
  }
  return alone_bytes - std::min(alone_bytes, held_bytes);
}

}  // namespace

api::Status Service::status() const {
  api::Status status;
  status.daemon_version = kVersion;
  status.pid = ::getpid();
  status.started = started_;
  status.preloads = options()->preloads.size();
  const auto prefault = parts_.store.prefault();
  status.prefault = {.policy = std::string(store::name_of(prefault.policy)),
                     .state = std::string(store::name_of(prefault.state)),
                     .ready_bytes = prefault.ready_bytes,
                     .total_bytes = prefault.total_bytes,
                     .why = prefault.why};
  status.not_ready = missing_preloads();
  if (prefault.policy == store::PrefaultPolicy::before_ready && prefault.state == store::PrefaultStatus::State::running)
    status.not_ready.push_back(fmt::format("prefaulting: {} of {}", show_bytes(prefault.ready_bytes),
                                           show_bytes(prefault.total_bytes)));
  status.drained = parts_.journal.contents().drained;
  if (status.drained) status.not_ready.push_back("the node was taken out of service (ckptctl undrain --all)");
  status.ready = status.not_ready.empty();
  const auto usage = parts_.store.usage();
  status.budget_bytes = usage.budget_bytes;
  status.segment_bytes = usage.segment_bytes;
  status.lent_bytes = usage.lent_bytes;
  status.idle_bytes = usage.idle_bytes;
  status.locked_bytes = usage.locked_bytes;
  status.huge_page_bytes = usage.huge_page_bytes;
  status.lock = options()->lock;
  const auto views = parts_.catalogue.list();
  for (const auto& view : views)
    if (view.state == catalogue::State::resident) ++status.versions_resident;
  status.saved_bytes = saved_by_sharing(views);
  for (const auto* device : parts_.devices) {
    const auto arenas = arenas_.usage(*device);
    status.devices.push_back({device->identity().uuid, device->identity().kind, device->free_bytes().value_or(0),
                              arenas.lent_bytes, arenas.kept_bytes, arenas.quarantined_bytes,
                              show(arenas_.quarantine(*device)), show(device->lost())});
  }
  status.engines = engines();
  status.warnings = handover_notes();
  for (auto& note : pause_notes()) status.warnings.push_back(std::move(note));
  for (const auto& device : status.devices)
    if (device.lost)
      status.warnings.push_back(fmt::format("{} is lost since {}, engines on it cannot be updated: {}", device.uuid,
                                            api::show_time(device.lost->since), device.lost->why));
  if (prefault.state == store::PrefaultStatus::State::ended)
    status.warnings.push_back(fmt::format("prefaulting ended with {} of {} ready: {}", show_bytes(prefault.ready_bytes),
                                          show_bytes(prefault.total_bytes), prefault.why));
  for (const auto& record : parts_.jobs.running()) status.running_jobs.push_back(record.id);
  for (const auto& peak : parts_.peaks.all())
    status.peaks.push_back({peak.stage, peak.device, peak.bytes_per_second, peak.bytes, api::show_time(peak.measured)});
  for (const auto& open : parts_.endpoints.in_custody())
    if (open.failed)
      status.in_custody.push_back(open.engine.empty() ? open.device : open.device + " of " + open.engine);
  std::lock_guard lock(mutex_);
  status.last_reload = last_reload_;
  return status;
}

}  // namespace ckptd::operations
