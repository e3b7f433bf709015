#include "daemon/pipeline/push.h"

#include <thread>

#include "daemon/pipeline/lane.h"

namespace ckptd::pipeline {

Result<> Together::check_stop() const {
  if (!stopped().stop_requested()) return {};
  if (auto error = first_error()) return std::unexpected(*error);
  return fail(ErrorKind::cancelled, "the update was cancelled");
}

/// A lane that fails asks for the stop first and then whether offers were made: so either it sees that they were, or
/// they never will be.
Result<> Together::Gate::pass(const Together& all) {
  std::lock_guard lock(mutex_);
  if (!outcome_) {
    outcome_ = all.check_stop();
    if (*outcome_) outcome_ = open_();
  }
  return *outcome_;
}

bool Together::Gate::is_open() const {
  std::lock_guard lock(mutex_);
  return outcome_ && *outcome_;
}

void Together::failed(const Error& error) {
  {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = error;
  }
  stop_.request_stop();
}

std::optional<Error> Together::first_error() const {
  std::lock_guard lock(error_mutex_);
  return error_;
}

Result<> push(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
              std::vector<Lane> lanes, const Deadlines& deadlines, const Gates& gates, Progress& progress,
              std::stop_token stop, Report& report) {
  const auto start = Clock::now();
  Together together(plan, manifest, resting, deadlines, gates, progress);
  std::stop_callback on_stop(stop, [&] { together.stop(); });

  report.lanes.assign(lanes.size(), {});
  report.holds.assign(lanes.size(), nullptr);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < lanes.size(); ++i)
      threads.emplace_back([&, i] { run_lane(lanes[i], together, report.lanes[i], report.holds[i]); });
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (auto error = together.first_error()) return std::unexpected(*std::move(error));
  return {};
}

}  // namespace ckptd::pipeline
