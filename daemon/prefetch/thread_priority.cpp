#include "daemon/prefetch/thread_priority.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace ckptd::prefetch {
namespace {

// The numbers of linux/ioprio.h, which cannot be included: in some releases (Debian's 6.1.192) it is no C++, since a
// parameter of a function there is named "class".
constexpr int kWhoProcess = 1;
constexpr int priority_of(int io_class, int level) { return io_class << 13 | level; }
constexpr int kLowestBestEffort = priority_of(2, 7), kIdle = priority_of(3, 0);

/// On Linux the nice value belongs to the thread.
void lower_nice(int nice) {
  if (nice == 0) return;
  errno = 0;
  const int now = ::getpriority(PRIO_PROCESS, 0);
  if (errno == 0 && now < nice) ::setpriority(PRIO_PROCESS, 0, nice);
}

/// Queued reads without a priority of their own take the one of the thread that hands them over. Larger values stand
/// further behind; 0, which every process begins with, stands for the middle of the best-effort class.
void lower_io(IoPriority priority) {
  if (priority == IoPriority::none) return;
  const int value = priority == IoPriority::idle ? kIdle : kLowestBestEffort;
  if (::syscall(SYS_ioprio_get, kWhoProcess, 0) < value) ::syscall(SYS_ioprio_set, kWhoProcess, 0, value);
}

}  // namespace

void lower_priority(const ThreadPriority& priority) {
  lower_nice(priority.nice);
  lower_io(priority.io);
}

}  // namespace ckptd::prefetch
