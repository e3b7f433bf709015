// One lane: its thread's loop. Internal to the room; push.h is the way in.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>

#include "daemon/pipeline/push.h"

namespace ckptd::pipeline {

/// What all lanes of one push share. The first failure ends them all.
class Together {
 public:
  /// Opened by the first lane that comes, unless the push was stopped before; the others wait for its answer.
  class Gate {
   public:
    explicit Gate(const std::function<Result<>()>& open) : open_(open) {}
    Result<> pass(const Together& all);
    bool is_open() const;  ///< waits for a lane that is opening it

   private:
    const std::function<Result<>()>& open_;
    mutable std::mutex mutex_;
    std::optional<Result<>> outcome_;
  };

  Together(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
           const Deadlines& deadlines, const Gates& gates, Progress& progress)
      : plan(plan),
        manifest(manifest),
        resting(resting),
        deadlines(deadlines),
        progress(progress),
        offers(gates.before_offers),
        first_bucket(gates.before_first_bucket) {}

  const plan::Plan& plan;
  const weights::Manifest& manifest;
  const Resting& resting;
  const Deadlines& deadlines;
  Progress& progress;
  Gate offers, first_bucket;

  /// Keeps the first error and stops every lane.
  void failed(const Error& error);
  std::optional<Error> first_error() const;
  void stop() { stop_.request_stop(); }
  std::stop_token stopped() const { return stop_.get_token(); }
  /// The first error, or cancelled, once the push was stopped.
  Result<> check_stop() const;

 private:
  mutable std::mutex error_mutex_;
  std::optional<Error> error_;
  std::stop_source stop_;
};

/// Runs a lane to its end on the calling thread. After an error the session has been failed, or discarded if nobody was
/// told of it, and the error is kept in `together`. `hold` is who may still map the arena, or null.
void run_lane(Lane& lane, Together& together, LaneReport& report, std::shared_ptr<ranks::Hold>& hold);

}  // namespace ckptd::pipeline
