// The trace of an ended job: what happened when, in rows, as compact values and as the JSON that Perfetto
// (ui.perfetto.dev) and chrome://tracing open.
//
// Times count from the job's begin. Events of one row never overlap, because viewers would not show those that do.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "proto/control/api.h"

namespace ckptd::proto::control {

struct TraceEvent {
  static constexpr std::uint32_t kNoBucket = ~std::uint32_t{0};

  std::uint32_t process = 0, row = 0;  ///< index into Trace::processes and its rows
  std::uint32_t what = 0;              ///< index into Trace::names
  std::uint32_t bucket = kNoBucket;
  std::uint32_t buckets = 1;           ///< so many spans, from `bucket` on, were drawn together into one event
  std::int64_t begin_ns = 0, duration_ns = 0;
  std::int64_t busy_ns = 0;            ///< the sum of the spans; less than the duration where several have gaps
  std::uint64_t bytes = 0;
};

struct TraceProcess {
  std::string name;               ///< "engine sglang-0"
  std::vector<std::string> rows;  ///< "HOST-0 upload"
};

struct Trace {
  std::string job, kind, subject, state;
  Time started{};
  std::int64_t duration_ns = 0;
  std::vector<std::string> names;  ///< upload, reload, ...
  std::vector<TraceProcess> processes;
  std::vector<TraceEvent> events;  ///< in the order of their begins
  std::uint64_t spans = 0;         ///< that were measured; more than events when they were drawn together

  /// What it takes in memory, roughly.
  std::uint64_t memory_bytes() const;
};

/// An object with traceEvents: metadata first, then complete events ("X"), ts and dur in microseconds.
nlohmann::json to_json(const Trace&);

}  // namespace ckptd::proto::control
