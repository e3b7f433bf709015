// One thread that looks after one engine, so that an engine that does not answer delays no other. Internal to the room.
//
// `look` is called on that thread, at once and then whenever the time that it returned is over or somebody nudges; it
// may block for the engine's deadline. The end of a Watch waits for a look that is under way: ask all to stop before
// the first is ended. nudge() and request_stop() block for nothing and may be called from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace ckptd::operations {

class Watch {
 public:
  /// std::system_error when no thread can be started.
  explicit Watch(std::function<std::chrono::milliseconds()> look);

  void nudge();
  void request_stop() { thread_.request_stop(); }
  bool has_ended() const { return ended_; }

 private:
  std::function<std::chrono::milliseconds()> look_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  bool nudged_ = false;  ///< under mutex_
  std::atomic<bool> ended_ = false;
  std::jthread thread_;  ///< last: it uses all of the above
};

}  // namespace ckptd::operations
