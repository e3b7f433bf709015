// Wakes those who sleep until a GPU has done work that they queued, also when the work fails.
//
// The driver's own way to be called back, cuLaunchHostFunc, is no way here: its functions are work of the stream like
// any other, so after an error that loses the context they never run, and who sleeps would sleep until a deadline.
// Instead one thread for each GPU asks the events that somebody waits for, every tenth of a millisecond while there are
// any, and sleeps while there are none. Asking costs the device nothing and answers in a microsecond.
//
//   wake_when_done: take a spare event, record it on the stream, hand it over
//   the thread:     done, failed, or the stream waited for a GPU that is lost -> wake, keep the event as a spare
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/result.h"
#include "common/waker.h"
#include "daemon/device/cuda/context.h"

namespace ckptd::device::cuda {

class StreamState;

class Watcher {
 public:
  /// io when the system gives no thread.
  static Result<std::shared_ptr<Watcher>> start(std::shared_ptr<Context> context);
  Watcher(std::shared_ptr<Context> context, std::vector<NativeEvent> spare);
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;
  ~Watcher();

  /// Wakes `waker` once what the stream has queued so far is done or failed; at once if it cannot be queued to that end.
  /// By the thread that uses the stream.
  Result<> watch(const StreamState& stream, const Waker& waker);

  /// Afterwards no waker of the stream is touched any more; those that still wait are woken now.
  void forget(const StreamState& stream);

 private:
  struct Entry {
    NativeEvent done;
    const StreamState* stream;
    const Waker* waker;
  };

  Result<NativeEvent> take_spare();
  void work();
  void look();

  const std::shared_ptr<Context> context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Entry> waiting_;
  std::vector<NativeEvent> spare_;
  bool ending_ = false;

  std::thread thread_;  // last: it uses everything above
};

}  // namespace ckptd::device::cuda
