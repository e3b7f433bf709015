#include "daemon/prefetch/throttle.h"

#include <algorithm>

#include "common/units.h"

namespace ckptd::prefetch {

Clock::time_point Throttle::book(std::uint64_t bytes, Clock::time_point now) {
  if (bytes_per_second_ == 0) return now;
  std::scoped_lock lock(mutex_);
  const auto begin = std::max(now, free_);
  free_ = begin + std::chrono::nanoseconds(bytes * 1'000'000'000 / bytes_per_second_);
  return begin;
}

std::uint64_t Throttle::even(std::uint64_t wished) const {
  if (bytes_per_second_ == 0) return wished;
  return std::min(wished, std::max(64 * kKiB, round_down(bytes_per_second_ / 20, 64 * kKiB)));
}

}  // namespace ckptd::prefetch
