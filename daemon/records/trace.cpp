#include "daemon/records/trace.h"

#include <algorithm>
#include <array>
#include <limits>

namespace ckptd::records {
namespace {

using pipeline::LaneReport;
using pipeline::Span;
using What = Span::What;
using api::TraceEvent;

std::int64_t nanoseconds(Clock::duration span) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(span).count();
}

class Builder {
 public:
  explicit Builder(const JobAccount& job) : job_(job) {
    trace_.job = job.id;
    trace_.kind = job.kind;
    trace_.subject = job.subject;
    trace_.state = job.state;
    trace_.started = job.started;
    trace_.duration_ns = std::max<std::int64_t>(0, nanoseconds(job.end - job.begin));
  }

  std::uint32_t process(std::string name) {
    trace_.processes.push_back({std::move(name), {}});
    return static_cast<std::uint32_t>(trace_.processes.size() - 1);
  }

  std::uint32_t row(std::uint32_t process, std::string name) {
    auto& rows = trace_.processes[process].rows;
    rows.push_back(std::move(name));
    return static_cast<std::uint32_t>(rows.size() - 1);
  }

  std::uint32_t name(std::string_view text) {
    const auto known = std::ranges::find(trace_.names, text);
    if (known != trace_.names.end()) return static_cast<std::uint32_t>(known - trace_.names.begin());
    trace_.names.emplace_back(text);
    return static_cast<std::uint32_t>(trace_.names.size() - 1);
  }

  /// Its place in time; what a clock or a report gets wrong is cut to the job.
  TraceEvent event(std::string_view what, Clock::time_point begin, Clock::time_point end) {
    TraceEvent event;
    event.what = name(what);
    event.begin_ns = std::clamp<std::int64_t>(nanoseconds(begin - job_.begin), 0, trace_.duration_ns);
    event.duration_ns = std::clamp<std::int64_t>(nanoseconds(end - job_.begin), event.begin_ns, trace_.duration_ns) -
                        event.begin_ns;
    event.busy_ns = event.duration_ns;
    return event;
  }

  void add(TraceEvent event, std::uint32_t process, std::uint32_t row, std::uint64_t spans = 1) {
    event.process = process;
    event.row = row;
    trace_.events.push_back(event);
    trace_.spans += spans;
  }

  api::Trace finish() {
    std::ranges::stable_sort(trace_.events, {}, &TraceEvent::begin_ns);
    trace_.events.shrink_to_fit();
    return std::move(trace_);
  }

 private:
  const JobAccount& job_;
  api::Trace trace_;
};

/// The spans of one kind, in the order of their begins, each `together` of them as one event.
std::vector<TraceEvent> events_of(Builder& builder, const LaneReport& lane, What what, std::string_view name,
                                  std::size_t together) {
  std::vector<const Span*> spans;
  for (const auto& span : lane.spans)
    if (span.what == what) spans.push_back(&span);
  std::ranges::stable_sort(spans, {}, [](const Span* span) { return span->begin; });
  const bool of_buckets = what == What::upload || what == What::reload;
  std::vector<TraceEvent> events;
  for (std::size_t first = 0; first < spans.size(); first += together) {
    const auto end = std::min(first + together, spans.size());
    auto end_at = spans[first]->begin;
    TraceEvent drawn;
    for (auto i = first; i < end; ++i) {
      end_at = std::max(end_at, spans[i]->end);
      drawn.bytes += spans[i]->bytes;
      drawn.busy_ns += builder.event(name, spans[i]->begin, spans[i]->end).busy_ns;
    }
    auto event = builder.event(name, spans[first]->begin, end_at);
    event.bytes = drawn.bytes;
    event.busy_ns = drawn.busy_ns;
    event.buckets = static_cast<std::uint32_t>(end - first);
    if (of_buckets) event.bucket = spans[first]->bucket;
    events.push_back(event);
  }
  return events;
}

/// Into as few rows as there are at once, so that events of one row do not overlap.
void add_in_rows(Builder& builder, std::uint32_t process, const std::string& title, std::vector<TraceEvent> events) {
  std::ranges::stable_sort(events, {}, &TraceEvent::begin_ns);
  struct Row {
    std::uint32_t number = 0;
    std::int64_t free_from = 0;
  };
  std::vector<Row> rows;
  for (const auto& event : events) {
    auto row = std::ranges::find_if(rows, [&](const Row& each) { return each.free_from <= event.begin_ns; });
    if (row == rows.end()) {
      const auto name = rows.empty() ? title : fmt::format("{} ({})", title, rows.size() + 1);
      row = rows.insert(rows.end(), {builder.row(process, name), 0});
    }
    row->free_from = event.begin_ns + event.duration_ns;
    builder.add(event, process, row->number, event.buckets);
  }
}

/// Steps that were taken inside another come into a row below it.
void add_steps(Builder& builder, std::uint32_t process, const Steps& steps) {
  std::vector<TraceEvent> events;
  for (const auto& step : steps.all()) events.push_back(builder.event(step.name, step.begin, step.end));
  add_in_rows(builder, process, "steps", std::move(events));
}

void add_lane(Builder& builder, std::uint32_t process, const LaneReport& lane, std::size_t together) {
  add_in_rows(builder, process, lane.device + " upload", events_of(builder, lane, What::upload, "upload", together));
  auto of_rank = events_of(builder, lane, What::reload, "reload", together);
  constexpr std::array kOnce{std::pair{What::connect, "connect"}, std::pair{What::release, "release"},
                             std::pair{What::finish, "finish"}, std::pair{What::receipt, "receipt"}};
  for (const auto& [what, name] : kOnce)
    for (const auto& event : events_of(builder, lane, what, name, 1)) of_rank.push_back(event);
  const auto title = lane.pid != 0 ? fmt::format("{} rank (pid {})", lane.device, lane.pid) : lane.device + " rank";
  add_in_rows(builder, process, title, std::move(of_rank));
}

std::size_t spans_of(const std::vector<PushAccount>& pushes) {
  std::size_t spans = 0;
  for (const auto& push : pushes)
    for (const auto& lane : push.lanes) spans += lane.spans.size();
  return spans;
}

}  // namespace

api::Trace update_trace(const JobAccount& job, const std::vector<PushAccount>& pushes, std::size_t most_events) {
  const auto together = std::max<std::size_t>(1, (spans_of(pushes) + most_events - 1) / most_events);
  Builder builder(job);
  const auto whole = builder.process("job " + job.id);
  builder.add(builder.event(job.kind, job.begin, job.end), whole, builder.row(whole, job.subject));
  for (const auto& push : pushes) {
    const auto process = builder.process("engine " + push.engine);
    add_steps(builder, process, push.steps);
    for (const auto& lane : push.lanes) add_lane(builder, process, lane, together);
  }
  return builder.finish();
}

api::Trace load_trace(const JobAccount& job, const LoadAccount& load) {
  Builder builder(job);
  const auto whole = builder.process("job " + job.id);
  builder.add(builder.event(job.kind, job.begin, job.end), whole, builder.row(whole, job.subject));
  add_steps(builder, whole, load.steps);
  for (const auto& step : load.steps.all()) {
    if (step.name != "read" || load.read_bytes == 0) continue;
    auto read = builder.event("read", step.begin, load.last_read.value_or(step.end));
    read.bytes = load.read_bytes;
    builder.add(read, whole, builder.row(whole, "reads"));
    auto hash = builder.event("hash", step.begin, step.end);  // begins with the first block, for the eye at once
    hash.bytes = load.hashed_bytes;
    builder.add(hash, whole, builder.row(whole, "hashes"));
  }
  return builder.finish();
}

}  // namespace ckptd::records
