// What the pushes of one update job share: progress summed over engines, and the guard against a careless cancel.
// Internal to the room. Safe from any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/jobs/jobs.h"
#include "daemon/operations/service.h"

namespace ckptd::operations {

class UpdateJob {
 public:
  UpdateJob(jobs::Handle& job, std::uint64_t tensor_bytes, const std::vector<EnginePush>& pushes) : job_(job) {
    for (const auto& push : pushes) total_bytes_ += tensor_bytes * push.devices.size();
  }

  const std::string& id() const { return job_.id(); }
  std::stop_token stop() const { return job_.stop(); }

  /// One engine's step; with several engines the job shows all that differ.
  void stage(const std::string& engine, const std::string& text) {
    std::lock_guard lock(mutex_);
    stages_[engine] = text;
    std::string shown;
    for (const auto& [name, step] : stages_) shown += fmt::format("{}{}: {}", shown.empty() ? "" : ", ", name, step);
    job_.stage(std::move(shown));
  }

  void reloaded(const std::string& engine, std::uint64_t bytes) {
    std::lock_guard lock(mutex_);
    reloaded_[engine] = bytes;
    std::uint64_t sum = 0;
    for (const auto& [name, done] : reloaded_) sum += done;
    job_.progress(sum, total_bytes_);
  }

  /// One engine's time in a stage; what is told twice adds up.
  void took(const std::string& engine, const jobs::StageTime& stage) {
    std::lock_guard lock(mutex_);
    auto& told = stage_named(stage_times_[engine], stage.name);
    told.seconds += stage.seconds;
    told.bytes += stage.bytes;
  }

  template <class Step>
  auto timed(const std::string& engine, const std::string& stage, Step step) {
    const auto start = Clock::now();
    auto outcome = step();
    took(engine, {stage, std::chrono::duration<double>(Clock::now() - start).count(), 0});
    return outcome;
  }

  /// Once, when all engines are done: gives the job its stages. Engines run side by side, so the longest time of a stage
  /// is the job's; bytes add up.
  void tell_stages() {
    std::lock_guard lock(mutex_);
    std::vector<jobs::StageTime> stages;
    for (const auto& [engine, times] : stage_times_)
      for (const auto& time : times) {
        auto& stage = stage_named(stages, time.name);
        stage.seconds = std::max(stage.seconds, time.seconds);
        stage.bytes += time.bytes;
      }
    for (auto& stage : stages) job_.took(std::move(stage));
  }

  /// From here on a cancel leaves a mixture and needs force. cancelled if one came before.
  Result<> guard(const std::string& engine) {
    return job_.guard_against_cancel(
        fmt::format("engine {} has been sent weights: cancelling now would leave it poisoned, with a mixture of two "
                    "versions, until a full update succeeds. Pass --force if that is what you want",
                    engine));
  }

 private:
  static jobs::StageTime& stage_named(std::vector<jobs::StageTime>& stages, const std::string& name) {
    const auto at = std::ranges::find(stages, name, &jobs::StageTime::name);
    return at != stages.end() ? *at : stages.emplace_back(jobs::StageTime{.name = name});
  }

  jobs::Handle& job_;
  std::uint64_t total_bytes_ = 0;
  std::mutex mutex_;
  std::map<std::string, std::string> stages_;
  std::map<std::string, std::uint64_t> reloaded_;
  std::map<std::string, std::vector<jobs::StageTime>> stage_times_;  ///< by engine
};

}  // namespace ckptd::operations
