#include "daemon/ranks/vllm_ipc/hold.h"

#include <algorithm>
#include <utility>

namespace ckptd::ranks::vllm_ipc {

WorkerHold::WorkerHold(std::string engine, std::string device, std::vector<Peer> processes)
    : holder_{std::move(engine), std::move(device), std::move(processes)} {}

bool WorkerHold::let_go() {
  std::lock_guard lock(mutex_);
  if (let_go_) return true;
  std::erase_if(open_, [](const Receipt& receipt) { return receipt.look() == Receipt::Seen::released; });
  const bool all_gone =
      !holder_.processes.empty() &&
      std::ranges::all_of(holder_.processes, [](const Peer& peer) { return is_gone(peer.process()); });
  let_go_ = open_.empty() || all_gone;
  return let_go_;
}

Holder WorkerHold::holder() const {
  std::lock_guard lock(mutex_);
  return holder_;
}

std::string WorkerHold::why() const {
  std::lock_guard lock(mutex_);
  const auto lost = std::ranges::find(open_, Receipt::Seen::lost, &Receipt::look);
  if (let_go_ || open_.empty()) return "it is unmapped";
  if (lost != open_.end())
    return fmt::format("its receipt {} in {} is damaged or was counted down more than once, so it proves nothing",
                       lost->index(), lost->file());
  return fmt::format("the worker has not unmapped the memory, or could not tell: {} receipts are missing, and it takes "
                     "one uid, or a common rank_group, and one /dev/shm to give them",
                     open_.size());
}

void WorkerHold::told(Receipt receipt) {
  std::lock_guard lock(mutex_);
  last_ = {receipt.file(), receipt.index()};
  open_.push_back(std::move(receipt));
}

void WorkerHold::take_back() {
  std::lock_guard lock(mutex_);
  if (!last_) return;
  std::erase_if(open_, [&](const Receipt& receipt) { return std::pair(receipt.file(), receipt.index()) == *last_; });
  last_.reset();
}

}  // namespace ckptd::ranks::vllm_ipc
