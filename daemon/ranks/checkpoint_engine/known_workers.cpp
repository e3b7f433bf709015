#include "daemon/ranks/checkpoint_engine/known_workers.h"

#include <algorithm>

namespace ckptd::ranks::checkpoint_engine {
namespace {

bool is_recognisable(const Peer& peer) { return peer.pid != 0 && peer.started != 0; }

}  // namespace

bool KnownWorkers::take_two_nones(const Peer& peer) const {
  if (!is_recognisable(peer)) return false;
  std::lock_guard lock(mutex_);
  return std::ranges::find(two_nones_, peer.process()) != two_nones_.end();
}

void KnownWorkers::took_two_nones(const Peer& peer) {
  if (!is_recognisable(peer)) return;
  std::lock_guard lock(mutex_);
  if (std::ranges::find(two_nones_, peer.process()) != two_nones_.end()) return;
  two_nones_.push_back(peer.process());
  if (two_nones_.size() > kMost) two_nones_.pop_front();
}

}  // namespace ckptd::ranks::checkpoint_engine
