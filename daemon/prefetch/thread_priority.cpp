#include "daemon/prefetch/thread_priority.h"

#include <linux/ioprio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace ckptd::prefetch {
namespace {

constexpr int kLowestLevel = 7;

/// On Linux the nice value belongs to the thread.
void lower_nice(int nice) {
  errno = 0;
  const int now = ::getpriority(PRIO_PROCESS, 0);
  if (errno == 0 && now < nice) ::setpriority(PRIO_PROCESS, 0, nice);
}

/// Queued reads without a priority of their own take the one of the thread that hands them over. Larger values stand
/// further behind; 0, which every process begins with, stands for the middle of the best-effort class.
void lower_io(IoPriority priority) {
  if (priority == IoPriority::none) return;
  const int value = priority == IoPriority::idle ? IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)
                                                 : IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, kLowestLevel);
  if (::syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) < value) ::syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value);
}

}  // namespace

void lower_priority(const ThreadPriority& priority) {
  lower_nice(priority.nice);
  lower_io(priority.io);
}

}  // namespace ckptd::prefetch
