#include "daemon/operations/show.h"

namespace ckptd::operations {

proto::control::Job show(const jobs::Record& record) {
  proto::control::Job job;
  job.id = record.id;
  job.kind = record.kind;
  job.subject = record.subject;
  job.state = jobs::name_of(record.state);
  job.stage = record.stage;
  job.done_bytes = record.done_bytes;
  job.total_bytes = record.total_bytes;
  job.error = record.error;
  job.result = record.result;
  job.started = record.started;
  if (record.state != jobs::State::running) job.ended = record.ended;
  job.cancel_requested = record.cancel_requested;
  for (const auto& stage : record.stages) job.stages.push_back({stage.name, stage.seconds, stage.bytes});
  return job;
}

std::vector<proto::control::Quarantine> show(const std::vector<pipeline::Arenas::InQuarantine>& arenas) {
  std::vector<proto::control::Quarantine> shown;
  for (const auto& arena : arenas) {
    auto& each = shown.emplace_back();
    each.bytes = arena.bytes;
    each.engine = arena.holder.engine;
    for (const auto& peer : arena.holder.processes) each.pids.push_back(peer.pid);
    each.why = arena.why;
    each.since = arena.since;
  }
  return shown;
}

std::optional<proto::control::LostDevice> show(const std::optional<device::Loss>& loss) {
  if (!loss) return {};
  return proto::control::LostDevice{.since = loss->since, .why = loss->error.sentence, .vendor = loss->error.vendor};
}

proto::control::Version show(const catalogue::View& view) {
  proto::control::Version version;
  version.name = view.id.name;
  version.version = view.id.version;
  version.state = catalogue::name_of(view.state);
  version.source_uri = view.source_uri;
  version.job = view.job;
  version.identity = view.identity;
  version.schema = view.schema;
  version.tensor_count = view.tensor_count;
  version.tensor_bytes = view.tensor_bytes;
  version.store_bytes = view.store_bytes;
  version.shared_bytes = view.shared_bytes;
  version.kept = view.kept;
  version.leased_by = view.leased_by;
  version.error = view.error;
  version.since = view.since;
  if (view.use > 0) version.last_use = view.last_use;
  return version;
}

}  // namespace ckptd::operations
