// Makes the budget ready ahead of its use, on a thread of its own.
//
// In the background it goes in steps of a few milliseconds, at the lowest priority that is not idle (an idle thread that
// holds a lock of the kernel's memory management would keep everybody else waiting). It ends when the whole budget is
// ready, or at the first memory that cannot be had: then loads find out by themselves what they can get.
#pragma once

#include <mutex>
#include <string>
#include <thread>

#include "daemon/store/pool.h"

namespace ckptd::store {

class Prefault {
 public:
  /// With `off` there is no thread. The pool must outlive it.
  Prefault(Pool& pool, PrefaultPolicy policy);
  ~Prefault();  ///< ends it within one step
  Prefault(const Prefault&) = delete;  // its thread points here
  Prefault& operator=(const Prefault&) = delete;

  /// Ends it within one step, for the reason that status() shows from then on. Safe from any thread, and idempotent.
  void end(std::string why);

  PrefaultStatus status() const;

 private:
  void run(const std::stop_token& stop);
  void finish(PrefaultStatus::State state, std::string why);

  Pool& pool_;
  const PrefaultPolicy policy_;
  mutable std::mutex mutex_;  // guards the next two
  PrefaultStatus::State state_;
  std::string why_;
  std::mutex join_mutex_;  // guards the thread's handle
  std::jthread thread_;
};

}  // namespace ckptd::store
