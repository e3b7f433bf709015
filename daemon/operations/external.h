// An update whose trigger somebody else holds (a trainer, a loop of one's own): they pause, call, flush, label and resume
// the engines, and the daemon serves the sessions of the ranks. This is where the endpoints go from the update's job to
// whoever asked for it. Internal to the room. Safe from any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "proto/control/api.h"

namespace ckptd::operations {

class External {
 public:
  explicit External(std::uint32_t sessions) : sessions_(sessions) {}

  std::uint32_t sessions() const { return sessions_; }  ///< that each rank opens

  /// Before the job begins: that something is to be waited for.
  void expect(const std::string& engine);
  /// What is to be told to whoever calls it; before hand_out().
  void warn(const std::string& engine, const std::vector<std::string>& sentences);
  void hand_out(const std::string& engine, std::map<std::string, std::string> handles);
  /// The engine's part of the update is over: of one that was handed nothing it is told why.
  void ended(const std::string& engine, const std::optional<Error>& error);

  /// True as soon as it is known of every engine what there is to hand to it, and there is something for one at least.
  bool wait(Deadline deadline) const;
  std::vector<proto::control::EngineHandles> handles() const;  ///< of those of which it is known

 private:
  bool is_settled() const;

  const std::uint32_t sessions_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<proto::control::EngineHandles> engines_;
};

}  // namespace ckptd::operations
