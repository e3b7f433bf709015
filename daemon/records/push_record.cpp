#include <algorithm>

#include "common/units.h"
#include "daemon/records/attribution.h"
#include "daemon/records/records.h"

namespace ckptd::records {
namespace {

using pipeline::LaneReport;
using pipeline::Span;
using What = Span::What;

constexpr std::size_t kSlowest = 20;

struct Kind {
  What what;
  const char* name;
};
constexpr std::array kKinds{Kind{What::connect, "connect"}, Kind{What::upload, "upload"}, Kind{What::reload, "reload"},
                            Kind{What::release, "release"}, Kind{What::finish, "finish"},
                            Kind{What::receipt, "receipt"}};

const char* name_of_kind(What what) {
  return std::ranges::find(kKinds, what, &Kind::what)->name;
}

std::string rank_of(const PushAccount& account, int lane) {
  if (lane < 0 || static_cast<std::size_t>(lane) >= account.lanes.size()) return {};
  const auto& report = account.lanes[static_cast<std::size_t>(lane)];
  return report.pid != 0 ? fmt::format("the rank on {} (pid {})", report.device, report.pid)
                         : fmt::format("the rank on {}", report.device);
}

std::string waited_for(const PushAccount& account, const Blame& blame) {
  switch (blame.reason) {
    case Reason::engine: return "engine " + account.engine;
    case Reason::connect:
    case Reason::reload:
    case Reason::collective:
    case Reason::finish: return rank_of(account, blame.lane);
    case Reason::upload: return account.lanes[static_cast<std::size_t>(blame.lane)].device;
    default: return {};
  }
}

std::vector<api::TimeShare> shares_of(const PushAccount& account, const std::vector<Blame>& blames) {
  std::vector<api::TimeShare> shares;
  for (const auto& blame : blames)
    shares.push_back({std::string(name_of(blame.reason)), blame.seconds, waited_for(account, blame)});
  return shares;
}

/// Shares of one reason against several ranks count together: three ranks that each held up a third were the ranks.
std::string bounded_by(const std::vector<Blame>& blames) {
  std::array<double, static_cast<std::size_t>(Reason::other) + 1> seconds{};
  for (const auto& blame : blames) seconds[static_cast<std::size_t>(blame.reason)] += blame.seconds;
  const auto most = std::ranges::max_element(seconds);
  return std::string(*most > 0 ? name_of(static_cast<Reason>(most - seconds.begin())) : name_of(Reason::other));
}

/// With a broadcast, what goes through a lane's link to host memory is what it owns: those of its spans alone, or the others.
LaneReport with_uploads(const PushAccount& account, std::size_t lane, bool owned) {
  auto report = account.lanes[lane];
  std::erase_if(report.spans, [&](const Span& span) {
    const bool own = span.bucket >= account.owners.size() || account.owners[span.bucket] == lane;
    return span.what == What::upload && own != owned;
  });
  return report;
}

using OfDevices = std::map<std::string, double>;  ///< by uuid, bytes a second

/// `peaks` of this stage; none is compared with.
api::StageFigure stage_of(const LaneReport& lane, const Kind& kind, const OfDevices& peaks) {
  api::StageFigure stage{.name = kind.name, .seconds = busy_seconds(lane, kind.what)};
  for (const auto& span : lane.spans)
    if (span.what == kind.what) stage.bytes += span.bytes;
  if (stage.bytes > 0 && stage.seconds > 0) stage.bytes_per_second = static_cast<double>(stage.bytes) / stage.seconds;
  const auto peak = peaks.find(lane.device);
  if (stage.bytes_per_second > 0 && peak != peaks.end()) {
    stage.peak_bytes_per_second = peak->second;
    stage.share_of_peak = stage.bytes_per_second / peak->second;
  }
  return stage;
}

std::uint64_t count_of(const LaneReport& lane, What what) {
  return static_cast<std::uint64_t>(std::ranges::count(lane.spans, what, &Span::what));
}

api::LaneRecord lane_record(const PushAccount& account, std::size_t number, const std::vector<Blame>& blames,
                            const Peaks& peaks) {
  const auto lane = with_uploads(account, number, true);
  api::LaneRecord record{.device = lane.device, .pid = lane.pid, .bytes = lane.bytes};
  record.buckets_uploaded = count_of(lane, What::upload);
  record.buckets_reloaded = count_of(lane, What::reload);
  record.bounded_by = bounded_by(blames);
  record.shares = shares_of(account, blames);
  const auto others = with_uploads(account, number, false);
  for (const auto& kind : kKinds) {
    if (count_of(lane, kind.what) > 0)
      record.stages.push_back(stage_of(lane, kind, kind.what == What::upload ? peaks.copy : OfDevices()));
    if (kind.what == What::upload && count_of(others, What::upload) > 0)
      record.stages.push_back(stage_of(others, {What::upload, "spread"}, peaks.spread));
  }
  return record;
}

std::vector<api::StageFigure> steps_of(const PushAccount& account) {
  std::vector<api::StageFigure> figures;
  for (const auto& step : account.steps.all())
    figures.push_back({.name = step.name, .seconds = seconds_between(step.begin, step.end)});
  return figures;
}

std::vector<api::SlowBucket> slowest_of(const PushAccount& account) {
  std::vector<api::SlowBucket> all;
  for (const auto& lane : account.lanes)
    for (const auto& span : lane.spans)
      if (span.what == What::upload || span.what == What::reload)
        all.push_back(
            {lane.device, name_of_kind(span.what), span.bucket, span.bytes, seconds_between(span.begin, span.end)});
  const auto kept = std::min(kSlowest, all.size());
  std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(kept), std::ranges::greater{},
                            &api::SlowBucket::seconds);
  all.resize(kept);
  return all;
}

/// "2.10 s of 2.90 s (72 %)"
std::string part_of(double part, double whole) {
  return fmt::format("{} of {} ({:.0f} %)", show_seconds(part), show_seconds(whole), whole > 0 ? 100 * part / whole : 0);
}

/// Which of ckptd's own steps took most of `overhead_seconds`; empty when none did, but gaps between them.
std::string longest_step(const PushAccount& account, double overhead_seconds) {
  const Step* longest = nullptr;
  for (const auto& step : account.steps.all())
    if (step.name != kPushStep && step.name != "ping" && step.name != "answer" &&
        (!longest || step.end - step.begin > longest->end - longest->begin))
      longest = &step;
  if (!longest || 2 * seconds_between(longest->begin, longest->end) < overhead_seconds) return {};
  return fmt::format(", the longest of them '{}' with {}", longest->name,
                     show_seconds(seconds_between(longest->begin, longest->end)));
}

std::string because(const PushAccount& account, const api::PushRecord& record, const Peaks& peaks) {
  double seconds = 0;
  std::string who;  // of the longest share with this reason
  for (const auto& share : record.shares) {
    if (share.reason != record.bounded_by) continue;
    if (seconds == 0) who = share.waited_for;
    seconds += share.seconds;
  }
  const auto part = part_of(seconds, record.seconds);
  if (record.bounded_by == "engine") return fmt::format("{} was waited for, {}", who, part);
  if (record.bounded_by == "connect") return fmt::format("{} was waited for to connect, {}", who, part);
  if (record.bounded_by == "reload") return fmt::format("{} was loading weights, {}", who, part);
  if (record.bounded_by == "collective")
    return fmt::format("lanes in lockstep waited for other lanes, {}; most for {}", part, who);
  if (record.bounded_by == "finish") return fmt::format("{} was finishing its weights, {}", who, part);
  if (record.bounded_by == "upload") {
    auto text = fmt::format("copies to {} were waited for, {}", who, part);
    const auto lane = std::ranges::find(record.lanes, who, &api::LaneRecord::device);
    if (lane == record.lanes.end() || !peaks.copy.contains(who)) return text;
    const auto stage = std::ranges::find(lane->stages, "upload", &api::StageFigure::name);
    if (stage != lane->stages.end() && stage->share_of_peak)
      text += fmt::format("; they ran at {:.0f} % of the device's measured peak", 100 * *stage->share_of_peak);
    return text;
  }
  if (record.bounded_by == "overhead") return fmt::format("ckptd's own steps took {}{}", part, longest_step(account, seconds));
  return fmt::format("nothing that was measured accounts for {}", part);
}

std::string how_far(const PushAccount& account) {
  const auto total = account.tensor_bytes * account.devices.size();
  if (account.touched)
    return fmt::format("the ranks had acknowledged {} of {}", show_bytes(account.reloaded_bytes), show_bytes(total));
  const auto untouched = "; the engine was not touched";
  const auto step = account.steps.last();
  if (step == kPushStep || step == "answer")
    return fmt::format("{} of {} ranks had connected, no weights were sent{}", account.connected,
                       account.devices.size(), untouched);
  return step.empty() ? fmt::format("it had not begun{}", untouched)
                      : fmt::format("it ended in its step '{}'{}", step, untouched);
}

std::string fact(const Error& error, std::string_view name) {
  const auto at = std::ranges::find(error.facts, name, &std::pair<std::string, std::string>::first);
  return at == error.facts.end() ? std::string() : at->second;
}

/// Errors of sessions name device and pid in their facts.
std::string who_failed(const PushAccount& account) {
  if (!account.error || account.error->kind == ErrorKind::cancelled) return {};
  const auto device = fact(*account.error, "device"), pid = fact(*account.error, "pid");
  if (!device.empty())
    return pid.empty() ? fmt::format("the rank on {}", device) : fmt::format("the rank on {} (pid {})", device, pid);
  return account.engine_failed || account.steps.last() == "ping" ? "engine " + account.engine : std::string();
}

}  // namespace

api::PushRecord push_record(const PushAccount& account, const Peaks& peaks) {
  api::PushRecord record{.engine = account.engine, .state = "succeeded"};
  record.seconds = seconds_between(account.begin, account.end);
  record.bytes = account.tensor_bytes;
  record.buckets = account.buckets;
  record.bucket_bytes = account.bucket_bytes;
  record.arena_bytes = account.arena_bytes;
  record.copy_runs = account.copy_runs;
  record.fan_out = account.fan_out;
  const auto blames = attribute(account);
  for (std::size_t i = 0; i < account.lanes.size(); ++i)
    record.lanes.push_back(lane_record(account, i, blames[i], peaks));
  const auto& last = blames[last_lane(account)];
  record.bounded_by = bounded_by(last);
  record.shares = shares_of(account, last);
  record.because = because(account, record, peaks);
  record.steps = steps_of(account);
  record.slowest = slowest_of(account);
  if (!account.error) return record;
  record.state = account.error->kind == ErrorKind::cancelled ? "cancelled" : "failed";
  record.error = account.error;
  record.came_to = how_far(account);
  record.failed = who_failed(account);
  return record;
}

}  // namespace ckptd::records
