// A worker's hold on CUDA memory that it was told of several times, with a receipt each time.
//
// Every handle that a worker was given is counted down once: by the mapping that it opened when that goes, or at once
// where memory was still mapped through an earlier handle (vLLM keeps one mapping from its first handle to the end of
// the update; before August 2026 it opened and closed one for each). So when all receipts are here, nothing is mapped.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/session.h"

namespace ckptd::ranks::vllm_ipc {

class WorkerHold final : public Hold {
 public:
  /// `processes`: who may map the memory, as far as can be seen; when all are gone, their mappings are.
  WorkerHold(std::string engine, std::string device, std::vector<Peer> processes);

  bool let_go() override;
  Holder holder() const override;
  std::string why() const override;

  void told(Receipt receipt);  ///< before the handle leaves
  void take_back();            ///< the last one: its handle has not left and never will

 private:
  mutable std::mutex mutex_;  ///< guards what follows
  Holder holder_;
  std::vector<Receipt> open_;  ///< those that have not come back
  std::optional<std::pair<std::string, std::uint64_t>> last_;  ///< of the last that was told: file and index
  bool let_go_ = false;
};

}  // namespace ckptd::ranks::vllm_ipc
