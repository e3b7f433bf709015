#include "daemon/ranks/checkpoint_engine/hold.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace ckptd::ranks::checkpoint_engine {

WorkerHold::WorkerHold(Receipt receipt, std::string engine, std::string device)
    : receipt_(std::move(receipt)), holder_{std::move(engine), std::move(device), {}} {}

bool WorkerHold::let_go() {
  std::lock_guard lock(mutex_);
  if (let_go_) return true;
  const bool receipt_counts = holder_.processes.size() <= 1 && !spent_early_;
  let_go_ = (receipt_counts && receipt_.look() == Receipt::Seen::released) || processes_are_gone();
  return let_go_;
}

bool WorkerHold::processes_are_gone() const {
  return !holder_.processes.empty() &&
         std::ranges::all_of(holder_.processes, [](const Peer& peer) { return is_gone(peer.process()); });
}

Holder WorkerHold::holder() const {
  std::lock_guard lock(mutex_);
  return holder_;
}

std::string WorkerHold::why() const {
  std::lock_guard lock(mutex_);
  if (let_go_) return "it is unmapped";
  if (holder_.processes.size() > 1) return "several processes were told of the memory, and one receipt cannot speak for all";
  if (spent_early_) return "the rank still maps the memory because of an earlier update";
  switch (receipt_.look()) {
    case Receipt::Seen::released: return "it is unmapped";
    case Receipt::Seen::lost:
      return fmt::format("its receipt {} in {} is damaged or was counted down more than once, so it proves nothing",
                         receipt_.index(), receipt_.file());
    case Receipt::Seen::held: break;
  }
  std::string text = "the rank has not unmapped the memory";
  if (!holder_.processes.empty() && holder_.processes.front().uid != ::geteuid())
    text += fmt::format(", or could not tell: it runs as uid {} and ckptd as {}, which takes a common rank_group and one "
                        "/dev/shm",
                        holder_.processes.front().uid, ::geteuid());
  return text;
}

void WorkerHold::met(const std::vector<Peer>& everybody) {
  std::lock_guard lock(mutex_);
  holder_.processes = everybody;
}

void WorkerHold::opened() {
  std::lock_guard lock(mutex_);
  if (receipt_.look() == Receipt::Seen::released) spent_early_ = true;
}

}  // namespace ckptd::ranks::checkpoint_engine
