// The part of the one device that sends in an update by NCCL: no process is told how to open its memory.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "daemon/ranks/vllm/session.h"
#include "daemon/ranks/vllm_nccl/link.h"

namespace ckptd::ranks::vllm_nccl {

/// What the session's thread and that of the calls both need to know: the link of this update. Safe from any thread.
class Sending {
 public:
  void by(std::shared_ptr<Link> link) {
    std::lock_guard lock(mutex_);
    link_ = std::move(link);
  }
  std::shared_ptr<Link> link() const {
    std::lock_guard lock(mutex_);
    return link_;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Link> link_;
};

class NcclSession final : public vllm::MeetingSession {
 public:
  NcclSession(std::shared_ptr<vllm::Meeting> meeting, vllm::Meeting::Member member, std::string device,
              std::shared_ptr<const Sending> sending);

  /// While NCCL may still read the arena, or come to it; null once it does not.
  std::shared_ptr<Hold> hold() const override;

 private:
  Result<vllm::WireMemory> memory_of(std::uint64_t offset, std::uint64_t bytes) override;

  const std::shared_ptr<const Sending> sending_;
};

}  // namespace ckptd::ranks::vllm_nccl
