#include <algorithm>

#include "common/units.h"
#include "daemon/records/records.h"

namespace ckptd::records {
namespace {

/// Hashing begins with the first bytes and reads never wait for it. So a tail of hashing after the last read tells that
/// the hashers are slower than the reads; a short one is only the last piece, or how seldom one looks.
constexpr double kTail = 0.10, kShortestTailSeconds = 0.2;

const api::StageTime* told(const LoadAccount& load, std::string_view name) {
  const auto at = std::ranges::find(load.told, name, &api::StageTime::name);
  return at == load.told.end() ? nullptr : &*at;
}

api::StageFigure figure(std::string name, double seconds, std::uint64_t bytes) {
  api::StageFigure stage{.name = std::move(name), .seconds = seconds, .bytes = bytes};
  if (bytes > 0 && seconds > 0) stage.bytes_per_second = static_cast<double>(bytes) / seconds;
  return stage;
}

std::vector<api::StageFigure> stages_of(const LoadAccount& load, const Peaks& peaks) {
  std::vector<api::StageFigure> stages;
  for (const auto& step : load.steps.all())
    if (!told(load, step.name))
      stages.push_back(figure(step.name, seconds_between(step.begin, step.end), step.name == "read" ? load.read_bytes : 0));
  for (const auto& stage : load.told) stages.push_back(figure(stage.name, stage.seconds, stage.bytes));
  for (auto& stage : stages)
    if (stage.name == "hash" && stage.bytes_per_second > 0 && peaks.hash) {
      stage.peak_bytes_per_second = *peaks.hash;
      stage.share_of_peak = stage.bytes_per_second / *peaks.hash;
    }
  return stages;
}

/// Where most of the bytes were read from.
std::string read_reason(const LoadAccount& load) {
  if (!load.cached_bytes || load.read_bytes == 0) return "read";
  return *load.cached_bytes > load.read_bytes / 2 ? "page_cache" : "storage";
}

struct Reading {
  double seconds = 0;       ///< of the step
  double tail_seconds = 0;  ///< of it, after the last read
  bool hash_bound() const { return tail_seconds > kTail * seconds; }
};

Reading reading_of(const LoadAccount& load) {
  Reading reading{.seconds = load.steps.seconds("read")};
  for (const auto& step : load.steps.all())
    if (step.name == "read" && load.last_read) reading.tail_seconds = seconds_between(*load.last_read, step.end);
  if (reading.tail_seconds < kShortestTailSeconds || reading.tail_seconds > reading.seconds) reading.tail_seconds = 0;
  return reading;
}

std::vector<api::TimeShare> shares_of(const LoadAccount& load, double seconds) {
  std::vector<api::TimeShare> shares;
  const auto reading = reading_of(load);
  double rest = seconds;
  const auto add = [&](std::string reason, double part) {
    if (part > 0) shares.push_back({std::move(reason), part, ""});
    rest -= part;
  };
  for (const auto& step : load.steps.all())
    if (step.name != "read") add(step.name, seconds_between(step.begin, step.end));
  add(read_reason(load), reading.seconds - reading.tail_seconds);
  add("hash", reading.tail_seconds);
  if (rest > 0) shares.push_back({"other", rest, ""});
  std::ranges::stable_sort(shares, std::ranges::greater{}, &api::TimeShare::seconds);
  return shares;
}

std::string bounded_by(const LoadAccount& load, const std::vector<api::TimeShare>& shares) {
  const auto reading = reading_of(load);
  const auto longest = std::ranges::find_if(
      shares, [&](const auto& share) { return share.reason != "hash" && share.reason != read_reason(load); });
  if (longest != shares.end() && longest->seconds > reading.seconds) return longest->reason;
  if (reading.seconds == 0) return "other";
  return reading.hash_bound() ? "hash" : read_reason(load);
}

std::string because(const LoadAccount& load, const api::LoadRecord& record) {
  const auto reading = reading_of(load);
  const auto percent = [&](double seconds) { return record.seconds > 0 ? 100 * seconds / record.seconds : 0; };
  const auto part = [&](double seconds) {
    return fmt::format("{} of {} ({:.0f} %)", show_seconds(seconds), show_seconds(record.seconds), percent(seconds));
  };
  const auto rate = show_rate(load.read_bytes, reading.seconds - reading.tail_seconds);
  if (record.bounded_by == "storage")
    return fmt::format("reading from storage at {} took {}", rate, part(reading.seconds));
  if (record.bounded_by == "page_cache")
    return fmt::format("reading from the page cache at {} took {}", rate, part(reading.seconds));
  if (record.bounded_by == "read") return fmt::format("reading at {} took {}", rate, part(reading.seconds));
  if (record.bounded_by == "hash")
    return fmt::format("hashing went on for {} after the last byte was read, of {}", show_seconds(reading.tail_seconds),
                       show_seconds(record.seconds));
  if (record.bounded_by == "reserve")
    return fmt::format("making memory ready (touching and locking it) took {}; memory that an earlier version left is "
                       "ready at once",
                       part(load.steps.seconds("reserve")));
  if (record.bounded_by == "other") return "it ended before anything was measured";
  return fmt::format("its step '{}' took {}", record.bounded_by, part(load.steps.seconds(record.bounded_by)));
}

std::string how_far(const LoadAccount& load) {
  if (load.steps.last().empty()) return "it had not begun";
  if (load.steps.last() != "read") return fmt::format("it ended in its step '{}'", load.steps.last());
  return fmt::format("{} of {} were read", show_bytes(load.read_bytes), show_bytes(load.total_bytes));
}

}  // namespace

api::JobRecord load_record(const JobAccount& job, const LoadAccount& load, const Peaks& peaks) {
  api::JobRecord record{.job = job.id, .kind = job.kind, .state = job.state};
  record.seconds = seconds_between(job.begin, job.end);
  auto& of_load = record.load.emplace();
  of_load.seconds = record.seconds;
  of_load.bytes = load.read_bytes;
  of_load.stages = stages_of(load, peaks);
  of_load.shares = shares_of(load, record.seconds);
  of_load.bounded_by = bounded_by(load, of_load.shares);
  of_load.because = because(load, of_load);
  if (load.cached_bytes) {
    of_load.page_cache_bytes = std::min(*load.cached_bytes, load.read_bytes);
    of_load.storage_bytes = load.read_bytes - *of_load.page_cache_bytes;
  }
  if (load.error) of_load.came_to = how_far(load);
  if (load.was_resident) record.notes.push_back("the version was resident already: nothing was loaded");
  return record;
}

}  // namespace ckptd::records
