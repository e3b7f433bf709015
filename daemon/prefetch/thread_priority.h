// How readily the kernel serves the threads of a load when others want the same processors and disks.
#pragma once

namespace ckptd::prefetch {

/// `none` leaves what the process has. `best_effort` is the lowest level of the class that processes have by default,
/// `idle` is served only when nobody else reads; schedulers that know no classes (none, kyber) ignore both.
enum class IoPriority { none, best_effort, idle };

struct ThreadPriority {
  int nice = 0;                       ///< 0 leaves what the process has; 1 to 19 never raises it
  IoPriority io = IoPriority::none;
};

/// For the calling thread and the reads that it queues, until the thread ends. What the kernel refuses stays as it is.
void lower_priority(const ThreadPriority& priority);

}  // namespace ckptd::prefetch
