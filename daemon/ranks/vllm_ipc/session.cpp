#include "daemon/ranks/vllm_ipc/session.h"

#include <utility>
#include <variant>

namespace ckptd::ranks::vllm_ipc {

IpcSession::IpcSession(std::shared_ptr<vllm::Meeting> meeting, vllm::Meeting::Member member,
                       std::shared_ptr<Receipts> receipts, std::string device, std::vector<Peer> processes)
    : MeetingSession(std::move(meeting), member, std::move(device)),
      receipts_(std::move(receipts)),
      processes_(std::move(processes)) {}

/// On host memory there is no handle: a stand-in of a server takes the path of the file in its place, see
/// docs/vllm_weight_transfer.md. vLLM itself runs on GPUs alone.
Result<vllm::WireMemory> IpcSession::memory_of(std::uint64_t offset, std::uint64_t bytes) {
  if (const auto* host = std::get_if<device::HostExport>(&offered()))
    return vllm::WireMemory{.handle = {host->path.begin(), host->path.end()},
                            .storage_bytes = host->bytes,
                            .offset = offset,
                            .bytes = bytes,
                            .counter_name = {}};
  const auto& cuda = std::get<device::CudaExport>(offered());
  auto receipt = CKPTD_TRY(receipts_->take());
  vllm::WireMemory memory{.handle = {cuda.handle.begin(), cuda.handle.end()},
                          .storage_bytes = cuda.bytes,
                          .offset = offset,
                          .bytes = bytes,
                          .counter_name = receipt.file(),
                          .counter_index = receipt.index()};
  if (!hold_) hold_ = std::make_shared<WorkerHold>(meeting().engine(), device(), processes_);
  hold_->told(std::move(receipt));
  ++brought_;
  return memory;
}

/// A handle that waited for other devices, or for the server to be started, has not left when the update ends there, and one
/// that was refused was opened by nobody: its receipt would never come. The one before it was acknowledged.
std::shared_ptr<Hold> IpcSession::hold() const {
  if (!hold_) return nullptr;
  if (!meeting().handles_are_unopened() && !meeting().is_kept_back(brought_)) return hold_;
  if (brought_ == 1) return nullptr;
  hold_->take_back();
  return hold_;
}

}  // namespace ckptd::ranks::vllm_ipc
