// The call that makes an engine's ranks open the sessions of one push, by us or by somebody else, and how it and the ranks
// end each other. Internal to the room.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <stop_token>
#include <string>
#include <thread>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/operations/external.h"

namespace ckptd::operations {

class EngineCall {
 public:
  virtual ~EngineCall() = default;

  /// What the engine says of the update, if it does so in time; otherwise the call is given up. `limit` is when it should
  /// have been there.
  virtual Result<std::string> answer_by(Clock::time_point limit, Clock::time_point ranks_done,
                                        const std::string& engine) = 0;
};

/// Ours: on a thread beside the ranks' sessions, since it returns only when they have ended. `answered` is called on that
/// thread. Its making throws std::system_error when there is no thread for it.
class OwnCall final : public EngineCall {
 public:
  OwnCall(std::function<Result<std::string>(std::stop_token)> call,
          std::function<void(const Result<std::string>&)> answered);

  Result<std::string> answer_by(Clock::time_point limit, Clock::time_point ranks_done, const std::string& engine) override;

 private:
  std::promise<Result<std::string>> promise_;
  std::shared_future<Result<std::string>> answer_;
  std::jthread thread_;
};

/// Somebody else's: they are handed the endpoints, and are told the engine's answer. We are not, so the ranks'
/// acknowledgements are the whole verdict.
class CallOfOthers final : public EngineCall {
 public:
  CallOfOthers(External& external, const std::string& engine, std::map<std::string, std::string> handles) {
    external.hand_out(engine, std::move(handles));
  }

  Result<std::string> answer_by(Clock::time_point, Clock::time_point, const std::string&) override { return {}; }
};

/// Ends the ranks' side when the engine has said no, or has said yes while ranks are still waiting: it must have left
/// them out. Owns the thread of the grace.
class RanksEnd {
 public:
  RanksEnd(std::stop_token job_stop, std::chrono::milliseconds grace, std::chrono::milliseconds grace_after_no)
      : grace_(grace), grace_after_no_(grace_after_no), on_job_stop_(job_stop, [this] { stop_.request_stop(); }) {}

  std::stop_token token() const { return stop_.get_token(); }

  /// After a no the ranks get a moment, too: a traceback from one of them says more than the engine's summary.
  void engine_answered(const Result<std::string>& answer) { end_after(answer ? grace_ : grace_after_no_); }

 private:
  void end_after(std::chrono::milliseconds span);

  std::chrono::milliseconds grace_, grace_after_no_;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_job_stop_;
  std::jthread timer_;
};

}  // namespace ckptd::operations
