// The steps of a use case and when each was taken: one after the other, some of them inside others.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/deadline.h"

namespace ckptd::records {

struct Step {
  std::string name;  ///< one lower-case word: "arena", "plan", "push"
  Clock::time_point begin, end;
};

/// Calls are ordered by their caller: they may come from several threads, but never two at once.
class Steps {
 public:
  /// Ends the step that was begun before, if it has not ended yet.
  void begin(std::string name, Clock::time_point at = Clock::now());
  void end(Clock::time_point at = Clock::now());

  /// Runs a step and returns what it gave. Inside a step that was begun it leaves that one open.
  template <class Run>
  auto timed(std::string name, Run run) {
    const auto begun = Clock::now();
    auto outcome = run();
    steps_.push_back({std::move(name), begun, Clock::now()});
    return outcome;
  }

  const std::vector<Step>& all() const { return steps_; }
  /// The step that was begun or run last; empty before the first.
  std::string_view last() const;
  /// Seconds of all steps of this name.
  double seconds(std::string_view name) const;

 private:
  std::vector<Step> steps_;
  std::optional<std::size_t> open_;  ///< the one that has begun and not ended
};

double seconds_between(Clock::time_point begin, Clock::time_point end);

}  // namespace ckptd::records
