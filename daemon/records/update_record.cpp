#include <algorithm>

#include "common/units.h"
#include "daemon/records/records.h"

namespace ckptd::records {
namespace {

/// A push to a device without a measured peak has nothing to be compared with, nor has one that spread buckets without
/// the peak of copies between devices.
bool lacks_a_peak(const std::vector<PushAccount>& pushes, const Peaks& peaks) {
  return std::ranges::any_of(pushes, [&](const PushAccount& push) {
    const bool spread = push.lanes.size() > 1 && !push.owners.empty();
    return std::ranges::any_of(push.lanes, [&](const auto& lane) {
      return !peaks.copy.contains(lane.device) || (spread && !peaks.spread.contains(lane.device));
    });
  });
}

}  // namespace

api::JobRecord update_record(const JobAccount& job, const std::vector<PushAccount>& pushes, const Peaks& peaks) {
  api::JobRecord record{.job = job.id, .kind = job.kind, .state = job.state};
  record.seconds = seconds_between(job.begin, job.end);
  for (const auto& push : pushes) record.engines.push_back(push_record(push, peaks));
  for (const auto& push : pushes)
    for (const auto& warning : push.warnings) record.notes.push_back(fmt::format("{}: {}", push.engine, warning));
  if (lacks_a_peak(pushes, peaks)) record.notes.push_back("no peak measured: ckptctl probe");
  return record;
}

std::string in_one_line(const api::JobRecord& record) {
  if (record.load)
    return fmt::format("{} {} after {}: {}, bounded by {}: {}", record.job, record.state, show_seconds(record.seconds),
                       show_bytes(record.load->bytes), record.load->bounded_by, record.load->because);
  auto line = fmt::format("{} {} after {}", record.job, record.state, show_seconds(record.seconds));
  for (const auto& push : record.engines) {
    line += fmt::format("; {}: ", push.engine);
    if (push.state == "succeeded")
      line += fmt::format("{} to each of {} at {}, ", show_bytes(push.bytes), push.lanes.size(),
                          show_rate(push.bytes, push.seconds));
    line += fmt::format("bounded by {}: {}", push.bounded_by, push.because);
    if (!push.came_to.empty()) line += "; " + push.came_to;
  }
  return line;
}

}  // namespace ckptd::records
