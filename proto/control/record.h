// The record of an ended job: where its time went, as values and their JSON.
//
// The seconds of `shares` add up to the seconds of what they divide: each instant counts for one reason. The seconds of
// `stages` do not: stages overlap. docs/records.md explains each field, each reason and what to do about it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace ckptd::proto::control {

struct StageFigure {
  std::string name = {};     ///< connect, upload, spread, reload, release, finish, receipt; of a load open, reserve, read, hash
  double seconds = 0;   ///< during which some of it was under way; what overlaps within the stage counts once
  std::uint64_t bytes = 0;
  double bytes_per_second = 0;          ///< 0 where no bytes pass
  std::optional<double> peak_bytes_per_second = {};  ///< the machine's own best of this stage, if it was measured
  std::optional<double> share_of_peak = {};  ///< bytes_per_second over that; 1.0: as fast as the machine can
};

struct TimeShare {
  std::string reason = {};      ///< engine, connect, upload, reload, collective, finish, others, overhead, other; of a load
                           ///< open, compare, reserve, storage, page_cache, read, hash, publish, other
  double seconds = 0;
  std::string waited_for = {};  ///< "the rank on HOST-1 (pid 4711)", "engine sglang-0"; empty: ckptd's own work
};

struct LaneRecord {
  std::string device = {};
  int pid = 0;  ///< of its rank; 0: none had connected
  std::uint64_t bytes = 0;  ///< acknowledged by its rank
  std::uint64_t buckets_uploaded = 0, buckets_reloaded = 0;
  std::string bounded_by = {};
  std::vector<StageFigure> stages = {};
  std::vector<TimeShare> shares = {};
};

struct SlowBucket {
  std::string device = {}, stage = {};
  std::uint64_t bucket = 0, bytes = 0;
  double seconds = 0;
};

/// One engine's part of an update.
struct PushRecord {
  std::string engine = {}, state = {};  ///< state: succeeded, failed, cancelled
  double seconds = 0;
  std::uint64_t bytes = 0;    ///< of the tensors, for each lane
  std::uint64_t buckets = 0, bucket_bytes = 0, arena_bytes = 0, copy_runs = 0;
  std::string fan_out = {};        ///< empty: it failed before there was a plan
  std::string bounded_by = {};     ///< the reason that has most of the time
  std::string because = {};        ///< that, as a sentence with numbers
  std::vector<TimeShare> shares = {};   ///< of the lane that ended last, longest first
  std::vector<StageFigure> steps = {};  ///< of the engine's push, in their order: ping, arena, plan, ..., answer
  std::vector<LaneRecord> lanes = {};
  std::vector<SlowBucket> slowest = {}; ///< longest first, at most 20
  std::string came_to = {};        ///< not succeeded: how far it came
  std::string failed = {};         ///< not succeeded: who failed, where that is known
  std::optional<Error> error = {};
};

struct LoadRecord {
  double seconds = 0;
  std::uint64_t bytes = 0;    ///< that were read
  std::string bounded_by = {}, because = {};
  std::vector<TimeShare> shares = {};
  std::vector<StageFigure> stages = {};
  /// Of `bytes`: from a disk or a file server, and what lay in the machine's memory already. Absent when nobody counted.
  std::optional<std::uint64_t> storage_bytes = {}, page_cache_bytes = {};
  std::string came_to = {};
};

struct JobRecord {
  std::string job = {}, kind = {}, state = {};
  double seconds = 0;
  std::vector<PushRecord> engines = {};  ///< of an update
  std::optional<LoadRecord> load = {};   ///< of a load
  std::vector<std::string> notes = {};   ///< "no peak measured: ckptctl probe"
};

/// What the machine reached at best, for comparison.
struct Peak {
  std::string stage = {};   ///< copy (host memory to a device), spread (from another device), hash (one core)
  std::string device = {};  ///< of copy and spread: the one that receives
  double bytes_per_second = 0;
  std::uint64_t bytes = 0;  ///< that one round moved
  std::string measured = {};     ///< RFC 3339, UTC
};

nlohmann::json to_json(const JobRecord&);
nlohmann::json to_json(const Peak&);
Result<JobRecord> parse_job_record(const nlohmann::json&);
Result<Peak> parse_peak(const nlohmann::json&);

}  // namespace ckptd::proto::control
