#include "daemon/records/steps.h"

#include <algorithm>
#include <utility>

namespace ckptd::records {

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::max(0.0, std::chrono::duration<double>(end - begin).count());
}

void Steps::begin(std::string name, Clock::time_point at) {
  end(at);
  steps_.push_back({std::move(name), at, at});
  open_ = steps_.size() - 1;
}

void Steps::end(Clock::time_point at) {
  if (open_) steps_[*open_].end = std::max(at, steps_[*open_].begin);
  open_.reset();
}

std::string_view Steps::last() const { return steps_.empty() ? std::string_view() : steps_.back().name; }

double Steps::seconds(std::string_view name) const {
  double sum = 0;
  for (const auto& step : steps_)
    if (step.name == name) sum += seconds_between(step.begin, step.end);
  return sum;
}

}  // namespace ckptd::records
