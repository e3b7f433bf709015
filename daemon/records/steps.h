// The steps of a use case, one after the other, and when each was taken.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/deadline.h"

namespace ckptd::records {

struct Step {
  std::string name;  ///< one lower-case word: "arena", "plan", "push"
  Clock::time_point begin, end;
};

/// A step ends where the next begins, or with end(). One thread at a time.
class Steps {
 public:
  void begin(std::string name, Clock::time_point at = Clock::now());
  void end(Clock::time_point at = Clock::now());

  const std::vector<Step>& all() const { return steps_; }
  /// The step that was under way last; empty before the first.
  std::string_view last() const;
  /// Seconds of all steps of this name.
  double seconds(std::string_view name) const;

 private:
  std::vector<Step> steps_;
  bool open_ = false;
};

double seconds_between(Clock::time_point begin, Clock::time_point end);

}  // namespace ckptd::records
