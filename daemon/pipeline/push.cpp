#include "daemon/pipeline/push.h"

#include <thread>

#include "daemon/pipeline/lane.h"

namespace ckptd::pipeline {

Result<> Together::touch() {
  std::lock_guard lock(touch_mutex_);
  if (!touched_) touched_ = before_first_bucket_();
  return *touched_;
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

Result<Report> push(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
                    std::vector<Lane> lanes, const Deadlines& deadlines, const BeforeFirstBucket& before_first_bucket,
                    Progress& progress, std::stop_token stop) {
  const auto start = Clock::now();
  Together together(plan, manifest, resting, deadlines, before_first_bucket, progress);
  std::stop_callback on_stop(stop, [&] { together.stop(); });

  std::vector<Result<LaneReport>> outcomes(lanes.size(), LaneReport{});
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < lanes.size(); ++i)
      threads.emplace_back([&, i] { outcomes[i] = run_lane(lanes[i], together); });
  }
  if (auto error = together.first_error()) return std::unexpected(*std::move(error));

  Report report;
  for (auto& outcome : outcomes) report.lanes.push_back(*std::move(outcome));
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace ckptd::pipeline
