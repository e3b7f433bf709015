// One budget of bytes a second, shared by all loads of a daemon.
#pragma once

#include <cstdint>
#include <mutex>

#include "common/deadline.h"

namespace ckptd::prefetch {

/// Safe from any thread; never blocks and never looks at a clock.
class Throttle {
 public:
  /// 0: no limit.
  explicit Throttle(std::uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  /// Books `bytes`, at most 1 GiB, and answers when they may be read: `now` or later. Bookings are served in the order
  /// of the calls. In any span of time what may be read is at most the budget for that span and one booking more; time
  /// that nobody used is lost.
  Clock::time_point book(std::uint64_t bytes, Clock::time_point now);

  /// The largest read that still keeps the flow even: what the budget allows in a twentieth of a second, between 64 KiB
  /// and `wished`.
  std::uint64_t even(std::uint64_t wished) const;

 private:
  const std::uint64_t bytes_per_second_;
  std::mutex mutex_;  // guards what follows
  Clock::time_point free_ = Clock::time_point::min();  ///< when all that was booked is paid for
};

}  // namespace ckptd::prefetch
