#include "daemon/pipeline/push.h"

#include <exception>
#include <latch>
#include <optional>
#include <thread>
#include <utility>

#include "daemon/pipeline/lane.h"

namespace ckptd::pipeline {
namespace {

/// Whose threads begin together or not at all. An error, and nothing was called, when there is not a thread for each.
Result<> on_a_thread_each(std::size_t count, const std::function<void(std::size_t)>& call) {
  std::latch all_there(1);
  Result<> outcome;
  std::vector<std::jthread> threads;
  struct Release {  // before the threads are waited for, whatever happens
    std::latch& latch;
    ~Release() { latch.count_down(); }
  };
  std::optional<Release> release(std::in_place, all_there);
  try {
    threads.reserve(count);
    for (std::size_t i = 0; i < count; ++i)
      threads.emplace_back([&, i] {
        all_there.wait();
        if (outcome) call(i);
      });
  } catch (const std::exception& error) {
    outcome = fail(ErrorKind::no_space,
                   "no thread could be started for a device's part of the update ({} of {} were): {}; raise TasksMax= of "
                   "the systemd unit, or `ulimit -u`",
                   threads.size(), count, error.what());
  }
  release.reset();
  threads.clear();  // waits for them
  return outcome;
}

}  // namespace

Result<> Together::check_stop() const {
  if (!stopped().stop_requested()) return {};
  return std::unexpected(end_reason());
}

Error Together::end_reason() const {
  return first_error().value_or(Error{ErrorKind::cancelled, "the update was cancelled"});
}

/// A lane that fails asks for the stop first and then whether offers were made: so either it sees that they were, or
/// they never will be.
Result<> Together::Gate::pass(const Together& all) {
  std::lock_guard lock(mutex_);
  if (!outcome_) {
    auto outcome = all.check_stop();
    if (outcome) outcome = open();
    outcome_ = std::move(outcome);
  }
  return *outcome_;
}

Result<> Together::Gate::open() const try {
  return open_();
} catch (const std::exception& error) {
  return fail(ErrorKind::internal, "the update could not go on: {}", error.what());
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

void Together::begin_session(bool first) {
  std::lock_guard lock(sessions_mutex_);
  ++in_session_;
  if (!first) ++progress.returned;
}

void Together::end_session(bool first) {
  std::lock_guard lock(sessions_mutex_);
  --in_session_;
  last_end_ = Clock::now();
  if (!first) return;
  last_first_end_ = last_end_;
  ++progress.finished;
}

Clock::time_point Together::first_sessions_ended() const {
  std::lock_guard lock(sessions_mutex_);
  return last_first_end_;
}

/// Of a rank that is served each wait has its own end, so this moves for a bounded time.
Deadline Together::connect_deadline(Deadline first) const {
  if (!in_turn) return first;
  if (progress.connected > progress.finished) return Deadline::in(deadlines.connect);
  std::lock_guard lock(sessions_mutex_);
  return progress.finished == 0 ? first : Deadline(std::max(first.at(), last_first_end_ + deadlines.connect));
}

Deadline Together::answer_deadline() const {
  std::lock_guard lock(sessions_mutex_);
  return Deadline((in_session_ > 0 ? Clock::now() : last_end_) + deadlines.answer);
}

Result<> push(const plan::Plan& plan, const weights::Manifest& manifest, const Resting& resting,
              std::vector<Lane> lanes, const Deadlines& deadlines, const Gates& gates, Progress& progress,
              std::stop_token stop, Report& report) {
  const auto start = Clock::now();
  Together together(plan, manifest, resting, deadlines, gates, progress);
  // A lane that waits for the others within a step of the group looks at nothing else: it is the group's end that wakes it.
  std::stop_callback on_end(together.stopped(), [&] {
    for (const Lane& lane : lanes)
      if (lane.member) lane.member->abort(together.end_reason());
  });
  std::stop_callback on_stop(stop, [&] { together.stop(); });

  report.lanes.assign(lanes.size(), {});
  report.holds.assign(lanes.size(), nullptr);
  // Before any thread runs: a lane that is ready early must not think that it was the last.
  for (std::size_t i = 0; i < lanes.size(); ++i) together.begin_session(true);
  const auto ran = on_a_thread_each(
      lanes.size(), [&](std::size_t i) { run_lane(lanes[i], together, report.lanes[i], report.holds[i]); });
  if (!ran) {
    together.failed(ran.error());
    for (Lane& lane : lanes) lane.session->discard();  // nobody was told of any
  }
  auto error = together.first_error();
  report.ranks_done = error ? Clock::now() : together.first_sessions_ended();
  report.seconds = std::chrono::duration<double>(report.ranks_done - start).count();
  if (error) return std::unexpected(*std::move(error));
  return {};
}

}  // namespace ckptd::pipeline
