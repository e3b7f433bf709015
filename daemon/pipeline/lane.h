// One lane: its thread's loop. Internal to the room; push.h is the way in.
#pragma once

#include <mutex>
#include <optional>
#include <stop_token>

#include "daemon/pipeline/push.h"

namespace ckptd::pipeline {

/// What all lanes of one push share. The first failure ends them all.
class Together {
 public:
  Together(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
           const Deadlines& deadlines, const BeforeFirstBucket& before_first_bucket, Progress& progress)
      : plan(plan),
        manifest(manifest),
        resting(resting),
        deadlines(deadlines),
        progress(progress),
        before_first_bucket_(before_first_bucket) {}

  const plan::Plan& plan;
  const weights::Manifest& manifest;
  const Resting& resting;
  const Deadlines& deadlines;
  Progress& progress;

  /// The first lane to come runs before_first_bucket, the others wait for its answer.
  Result<> touch();

  /// Keeps the first error and stops every lane.
  void failed(const Error& error);
  std::optional<Error> first_error() const;
  void stop() { stop_.request_stop(); }
  std::stop_token stopped() const { return stop_.get_token(); }

 private:
  const BeforeFirstBucket& before_first_bucket_;
  std::mutex touch_mutex_;
  std::optional<Result<>> touched_;
  mutable std::mutex error_mutex_;
  std::optional<Error> error_;
  std::stop_source stop_;
};

/// Runs a lane to its end on the calling thread. On any error the session has been failed when this returns.
Result<LaneReport> run_lane(Lane& lane, Together& together);

}  // namespace ckptd::pipeline
