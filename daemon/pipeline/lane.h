// One lane: its thread's loop, and one session of its rank (lane_session.cpp). Internal to the room; push.h is the way in.
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
    Result<> open() const;

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
        first_bucket(gates.before_first_bucket),
        in_turn(gates.in_turn),
        answered(gates.answered),
        told_sessions(gates.told_sessions),
        sessions(gates.sessions) {}

  const plan::Plan& plan;
  const weights::Manifest& manifest;
  const Resting& resting;
  const Deadlines& deadlines;
  Progress& progress;
  Gate offers, first_bucket;
  const bool in_turn;
  const std::stop_token answered;
  const std::uint32_t told_sessions;
  const std::uint32_t sessions;  ///< of each rank; 0: as many as come before the engine answers

  /// Keeps the first error and stops every lane: those that poll are woken, and the group is aborted for those within it.
  void failed(const Error& error);
  std::optional<Error> first_error() const;
  void stop() { stop_.request_stop(); }
  std::stop_token stopped() const { return stop_.get_token(); }
  /// Of a push that was stopped: the first error, or cancelled.
  Error end_reason() const;
  /// end_reason(), once the push was stopped.
  Result<> check_stop() const;

  // Which lanes have a rank in a session. Nobody waits for the engine's answer longer than a deadline since none has.
  void begin_session(bool first);
  void end_session(bool first);
  Clock::time_point first_sessions_ended() const;  ///< the last of them
  Deadline answer_deadline() const;  ///< of now: it moves while some rank is in a session
  Deadline connect_deadline(Deadline first) const;  ///< of now: with in_turn it moves while another rank is served

 private:
  mutable std::mutex error_mutex_;
  std::optional<Error> error_;
  std::stop_source stop_;
  mutable std::mutex sessions_mutex_;  ///< guards what follows
  std::uint32_t in_session_ = 0;
  Clock::time_point last_end_, last_first_end_;
};

/// One session of a lane's rank, on the calling thread. `member` is null when the lane uploads for itself alone.
Result<> run_session(Lane& lane, Together& together, collective::Member* member, LaneReport& report,
                     Progress& progress);

/// Runs a lane to its end on the calling thread, all sessions of its rank. After an error the session has been failed, or
/// discarded if nobody was told of it, and the error is kept in `together`. `hold` is who may still map the arena, or null.
void run_lane(Lane& lane, Together& together, LaneReport& report, std::shared_ptr<ranks::Hold>& hold);

}  // namespace ckptd::pipeline
