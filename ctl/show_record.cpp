#include "common/units.h"
#include "ctl/summaries.h"
#include "ctl/table.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

constexpr std::size_t kIndent = 2;
constexpr double kShortestTold = 0.001;  ///< seconds: what took less, such as finding memory ready, has no rate

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.0f} %", 100 * part / whole) : "";
}

/// A table below a heading: as wide as the terminal less the indent.
std::string indented(const Table& table, const View& view) {
  std::optional<std::size_t> width;
  if (view.width) width = *view.width > kIndent ? *view.width - kIndent : 1;
  return indent(render(table, width, view.utf8), "  ");
}

std::string show_shares(const std::vector<TimeShare>& shares, double seconds, const View& view) {
  if (shares.empty()) return {};
  Table table{{{"TIME", false, true}, {"SHARE", false, true}, {"REASON"}, {"WAITED FOR", true}}, {}};
  for (const auto& share : shares)
    table.rows.push_back({show_seconds(share.seconds), percent(share.seconds, seconds), printable(share.reason),
                          printable(share.waited_for)});
  return indented(table, view);
}

std::vector<std::string> stage_row(std::string where, const StageFigure& stage) {
  return {std::move(where),
          printable(stage.name),
          stage.bytes > 0 ? show_bytes(stage.bytes) : "",
          show_seconds(stage.seconds),
          stage.bytes > 0 && stage.seconds >= kShortestTold ? show_rate(stage.bytes, stage.seconds) : "",
          stage.peak_bytes_per_second ? fmt::format("{:.2f} GB/s", *stage.peak_bytes_per_second / 1e9) : "",
          stage.share_of_peak ? percent(*stage.share_of_peak, 1) : ""};
}

Table stage_table(std::string where) {
  return {{{std::move(where), true},
           {"STAGE"},
           {"BYTES", false, true},
           {"TIME", false, true},
           {"RATE", false, true},
           {"PEAK", false, true},
           {"OF PEAK", false, true}},
          {}};
}

std::string show_lanes(const PushRecord& push, const View& view) {
  auto table = stage_table("DEVICE");
  for (const auto& lane : push.lanes) {
    if (lane.stages.empty()) table.rows.push_back({printable(lane.device)});  // nobody came
    for (const auto& stage : lane.stages) table.rows.push_back(stage_row(printable(lane.device), stage));
  }
  return table.rows.empty() ? std::string() : "\n" + indented(table, view);
}

std::string show_plan(const PushRecord& push) {
  if (push.fan_out.empty()) return {};
  return fmt::format("{} {} of up to {} in {} copy runs, arena {}, {}", push.buckets,
                     push.buckets == 1 ? "bucket" : "buckets", show_bytes(push.bucket_bytes), push.copy_runs,
                     show_bytes(push.arena_bytes), printable(push.fan_out));
}

std::string show_sent(const PushRecord& push) {
  auto text = fmt::format("{} to each of {} {} in {}", show_bytes(push.bytes), push.lanes.size(),
                          push.lanes.size() == 1 ? "device" : "devices", show_seconds(push.seconds));
  if (push.seconds > 0) text += ", " + show_rate(push.bytes, push.seconds);
  return text;
}

std::string show_slowest(const PushRecord& push) {
  if (push.slowest.empty()) return {};
  const auto& slow = push.slowest.front();
  return fmt::format("{} of bucket {} on {}: {} in {}", printable(slow.stage), slow.bucket, printable(slow.device),
                     show_bytes(slow.bytes), show_seconds(slow.seconds));
}

/// "arena 1.20 s, journal 12 ms": what took longest of a push's own steps, the push apart.
std::string show_steps(const PushRecord& push) {
  std::string text;
  for (const auto& step : push.steps)
    if (step.name != "push")
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", printable(step.name), show_seconds(step.seconds));
  return text;
}

std::string verdict(const std::string& bounded_by, const std::string& because) {
  return printable(bounded_by) + (because.empty() ? "" : ": " + printable(because));
}

/// `alone`: its error is the job's and stands above already.
std::string show_push(const PushRecord& push, bool alone, const View& view) {
  auto out = fmt::format("engine {} {}\n", printable(push.engine), printable(push.state));
  out += indent(render_fields({
                    {"bounded by", verdict(push.bounded_by, push.because)},
                    {"failed", printable(push.failed)},
                    {"came to", printable(push.came_to)},
                    {"error", alone || !push.error ? "" : printable(push.error->sentence)},
                    {"sent", push.state == "succeeded" ? show_sent(push) : ""},
                    {"plan", show_plan(push)},
                    {"steps", show_steps(push)},
                    {"slowest", show_slowest(push)},
                }),
                "  ");
  return out + "\n" + show_shares(push.shares, push.seconds, view) + show_lanes(push, view);
}

std::string show_origin(const LoadRecord& load) {
  if (!load.storage_bytes || !load.page_cache_bytes) return {};
  return fmt::format("{} from storage, {} from the page cache", show_bytes(*load.storage_bytes),
                     show_bytes(*load.page_cache_bytes));
}

std::string show_load(const LoadRecord& load, const View& view) {
  auto out = indent(render_fields({
                        {"bounded by", verdict(load.bounded_by, load.because)},
                        {"came to", printable(load.came_to)},
                        {"read", show_origin(load)},
                    }),
                    "  ");
  out += "\n" + show_shares(load.shares, load.seconds, view);
  auto table = stage_table("");
  table.columns.erase(table.columns.begin());
  for (const auto& stage : load.stages) {
    auto row = stage_row("", stage);
    row.erase(row.begin());
    table.rows.push_back(std::move(row));
  }
  return table.rows.empty() ? out : out + "\n" + indented(table, view);
}

}  // namespace

std::string verdict_of(const Job& job) {
  if (!job.record) return {};
  if (job.record->load) {
    if (job.record->load->bytes == 0) return {};
    return fmt::format("  bounded by {}\n", verdict(job.record->load->bounded_by, job.record->load->because));
  }
  std::string out;
  for (const auto& push : job.record->engines)
    out += fmt::format("  {}: bounded by {}\n", printable(push.engine), verdict(push.bounded_by, push.because));
  return out;
}

std::string show_record(const JobRecord& record, const View& view) {
  auto out = fmt::format("where the time went, {} in all\n", show_seconds(record.seconds));
  for (const auto& push : record.engines) out += "\n" + show_push(push, record.engines.size() == 1, view);
  if (record.load) out += show_load(*record.load, view);
  for (const auto& note : record.notes) out += "\nnote: " + printable(note) + "\n";
  return out;
}

std::string show_peak(const Peak& peak, const View& view) {
  const auto measured = parse_time(peak.measured);
  const auto* what = peak.stage == "hash"     ? "one core hashes"
                     : peak.stage == "spread" ? "copies from another device"
                                              : "copies";
  return fmt::format("{} {:.2f} GB/s at best (measured {})", what,
                     peak.bytes_per_second / 1e9, measured ? show_age(*measured, view.now) : "once");
}

}  // namespace ckptd::ctl
