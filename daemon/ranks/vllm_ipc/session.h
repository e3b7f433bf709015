// A device's part in an update by CUDA IPC: the engine is told how its worker opens the memory, with a receipt each time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/vllm/session.h"
#include "daemon/ranks/vllm_ipc/hold.h"

namespace ckptd::ranks::vllm_ipc {

class IpcSession final : public vllm::MeetingSession {
 public:
  IpcSession(std::shared_ptr<vllm::Meeting> meeting, vllm::Meeting::Member member, std::shared_ptr<Receipts> receipts,
             std::string device, std::vector<Peer> processes);

  std::shared_ptr<Hold> hold() const override;

 private:
  Result<vllm::WireMemory> memory_of(std::uint64_t offset, std::uint64_t bytes) override;

  const std::shared_ptr<Receipts> receipts_;
  const std::vector<Peer> processes_;
  std::shared_ptr<WorkerHold> hold_;  ///< of memory that a mapping does not keep, once somebody is to be told of it
  std::uint64_t brought_ = 0;         ///< handles to the meeting
};

}  // namespace ckptd::ranks::vllm_ipc
