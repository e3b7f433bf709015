// From accounts to the trace of a job. Pure.
//
// A trace has at most kMostEvents events of buckets: of an update with more spans, neighbours of one lane and kind are
// drawn together, the same number everywhere, with the sum of their bytes. The record still has the slowest buckets one
// by one.
#pragma once

#include <vector>

#include "daemon/records/accounts.h"
#include "proto/control/trace.h"

namespace ckptd::records {

inline constexpr std::size_t kMostEvents = 20'000;

api::Trace update_trace(const JobAccount& job, const std::vector<PushAccount>& pushes,
                        std::size_t most_events = kMostEvents);
api::Trace load_trace(const JobAccount& job, const LoadAccount& load);

}  // namespace ckptd::records
