// Which rank processes are known to take two Nones (checkpoint-engine from 0.4.0 on): a process keeps its package as long
// as it lives. Only an acknowledged second None proves it, so what is remembered here is never a guess. A process of which
// the kernel tells no pid, or not when it started, cannot be recognised and is watched anew in each session.
//
// Safe from any thread. Nothing blocks.
#pragma once

#include <deque>
#include <mutex>

#include "common/process.h"
#include "daemon/ranks/session.h"

namespace ckptd::ranks::checkpoint_engine {

class KnownWorkers {
 public:
  static constexpr std::size_t kMost = 4096;  ///< remembered; the oldest is forgotten first

  bool take_two_nones(const Peer& peer) const;
  void took_two_nones(const Peer& peer);

 private:
  mutable std::mutex mutex_;
  std::deque<ProcessId> two_nones_;  ///< guarded by mutex_
};

}  // namespace ckptd::ranks::checkpoint_engine
