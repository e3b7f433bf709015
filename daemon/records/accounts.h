// What was seen of a job while it ran: plain values that use cases fill in as they go, so that a job which fails half
// way has an account of that half. Records and traces are made of them afterwards.
//
// Times are of the steady clock. Filled by one thread, read by another only after the first has ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/pipeline/push.h"
#include "daemon/records/steps.h"
#include "proto/control/api.h"

namespace ckptd::records {

namespace api = proto::control;

struct JobAccount {
  std::string id, kind, subject;
  std::string state;  ///< as jobs::name_of: succeeded, failed, cancelled
  std::chrono::system_clock::time_point started;
  Clock::time_point begin, end;
};

/// One engine's part of an update.
struct PushAccount {
  std::string engine;
  std::vector<std::string> devices;  ///< of its lanes
  Clock::time_point begin, end;
  Steps steps;
  // From the plan; zeros and empty while there is none.
  std::uint64_t tensor_bytes = 0, buckets = 0, bucket_bytes = 0, arena_bytes = 0, copy_runs = 0;
  std::string fan_out;
  std::vector<std::uint32_t> owners;  ///< of a broadcast, by bucket: the lane that uploads it
  std::vector<pipeline::LaneReport> lanes;  ///< of those that told
  std::uint32_t connected = 0;
  std::uint64_t reloaded_bytes = 0;  ///< summed over lanes
  bool touched = false;
  bool engine_failed = false;  ///< and not a rank, a device or ckptd
  std::vector<std::string> warnings;  ///< one sentence each, whatever became of it
  std::optional<Error> error;
};

struct LoadAccount {
  Steps steps;
  std::vector<api::StageTime> told;  ///< by prefetch: open, reserve, read; hash, summed over its threads
  std::uint64_t total_bytes = 0, read_bytes = 0, hashed_bytes = 0;
  std::optional<std::uint64_t> cached_bytes;       ///< of read_bytes, those that lay in memory
  std::optional<Clock::time_point> last_read;      ///< when read_bytes was last seen to grow
  bool was_resident = false;
  std::optional<Error> error;
};

/// The machine's own best, bytes a second.
struct Peaks {
  std::map<std::string, double> copy;         ///< by the device's uuid
  std::optional<double> hash;                 ///< one core
  std::map<std::string, double> spread = {};  ///< from another device, by the uuid of the one that receives
};

}  // namespace ckptd::records
