// A point in time by which somebody must have done something. There is no "never": who waits names an end.
#pragma once

#include <algorithm>
#include <chrono>

namespace ckptd {

using Clock = std::chrono::steady_clock;

class Deadline {
 public:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  static Deadline in(Clock::duration span) { return Deadline(Clock::now() + span); }

  Clock::time_point at() const { return at_; }
  bool passed() const { return Clock::now() >= at_; }

  /// Milliseconds left for poll(2) and its kin, rounded up so that a wait never spins; 0 once passed.
  int poll_timeout_ms() const {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(at_ - Clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
  }

  Deadline earlier(Deadline other) const { return Deadline(std::min(at_, other.at_)); }

 private:
  Clock::time_point at_;
};

}  // namespace ckptd
