// What the pushes of one update job share: progress summed over engines, and the guard against a careless cancel.
// Internal to the room. Safe from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

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

  /// From here on a cancel leaves a mixture and needs force. cancelled if one came before.
  Result<> guard(const std::string& engine) {
    return job_.guard_against_cancel(
        fmt::format("engine {} has been sent weights: cancelling now would leave it poisoned, with a mixture of two "
                    "versions, until a full update succeeds. Pass --force if that is what you want",
                    engine));
  }

 private:
  jobs::Handle& job_;
  std::uint64_t total_bytes_ = 0;
  std::mutex mutex_;
  std::map<std::string, std::string> stages_;
  std::map<std::string, std::uint64_t> reloaded_;
};

}  // namespace ckptd::operations
