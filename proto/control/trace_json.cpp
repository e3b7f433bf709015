#include <nlohmann/json.hpp>

#include "proto/control/trace.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

double microseconds(std::int64_t ns) { return static_cast<double>(ns) / 1e3; }

json metadata(const char* name, std::size_t pid, std::size_t tid, json args) {
  return {{"name", name}, {"ph", "M"}, {"pid", pid}, {"tid", tid}, {"args", std::move(args)}};
}

// Viewers take 0 for "no process"; ours count from 1, and so do the rows.
void add_rows(json& events, const TraceProcess& process, std::size_t pid) {
  events.push_back(metadata("process_name", pid, 0, {{"name", process.name}}));
  events.push_back(metadata("process_sort_index", pid, 0, {{"sort_index", pid}}));
  for (std::size_t row = 0; row < process.rows.size(); ++row) {
    events.push_back(metadata("thread_name", pid, row + 1, {{"name", process.rows[row]}}));
    events.push_back(metadata("thread_sort_index", pid, row + 1, {{"sort_index", row + 1}}));
  }
}

std::string title(const TraceEvent& event, const std::string& what) {
  if (event.bucket == TraceEvent::kNoBucket) return what;
  if (event.buckets <= 1) return fmt::format("{} {}", what, event.bucket);
  return fmt::format("{} {}..{}", what, event.bucket, std::uint64_t{event.bucket} + event.buckets - 1);
}

json complete(const TraceEvent& event, const std::string& what) {
  json args = json::object();
  if (event.bucket != TraceEvent::kNoBucket) args["bucket"] = event.bucket;
  if (event.buckets > 1) {
    args["buckets"] = event.buckets;
    args["busy_us"] = microseconds(event.busy_ns);
  }
  if (event.bytes > 0) {
    args["bytes"] = event.bytes;
    if (event.busy_ns > 0)
      args["bytes_per_second"] = static_cast<double>(event.bytes) * 1e9 / static_cast<double>(event.busy_ns);
  }
  return {{"name", title(event, what)},
          {"cat", what},
          {"ph", "X"},
          {"ts", microseconds(event.begin_ns)},
          {"dur", microseconds(event.duration_ns)},
          {"pid", event.process + 1},
          {"tid", event.row + 1},
          {"args", std::move(args)}};
}

}  // namespace

std::uint64_t Trace::memory_bytes() const {
  std::uint64_t bytes = sizeof(Trace) + events.capacity() * sizeof(TraceEvent) + subject.size() + job.size();
  for (const auto& name : names) bytes += sizeof(name) + name.size();
  for (const auto& process : processes) {
    bytes += sizeof(process) + process.name.size();
    for (const auto& row : process.rows) bytes += sizeof(row) + row.size();
  }
  return bytes;
}

json to_json(const Trace& trace) {
  auto events = json::array();
  for (std::size_t i = 0; i < trace.processes.size(); ++i) add_rows(events, trace.processes[i], i + 1);
  for (const auto& event : trace.events) events.push_back(complete(event, trace.names[event.what]));
  return {{"displayTimeUnit", "ms"},
          {"otherData",
           {{"job", trace.job},
            {"kind", trace.kind},
            {"subject", trace.subject},
            {"state", trace.state},
            {"started", show_time(trace.started)},
            {"duration_us", microseconds(trace.duration_ns)},
            {"spans", trace.spans},
            {"events", trace.events.size()}}},
          {"traceEvents", std::move(events)}};
}

}  // namespace ckptd::proto::control
