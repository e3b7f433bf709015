// A worker's hold on CUDA memory: its receipt, and the processes that may have opened the memory.
//
// The receipt is believed when one process alone was told of the memory, and when the counter still stood as it was
// armed after the rank had opened it: torch counts down at once, without a new mapping, for memory that it has already
// mapped because of an earlier offer. When the processes are gone, their mappings are, whatever the receipt says. That a
// rank has closed its socket proves nothing: its process lives on.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/session.h"

namespace ckptd::ranks::checkpoint_engine {

class WorkerHold final : public Hold {
 public:
  WorkerHold(Receipt receipt, std::string engine, std::string device);

  bool let_go() override;
  Holder holder() const override;
  std::string why() const override;

  const Receipt& receipt() const { return receipt_; }  ///< never changes

  // What the session sees.
  void met(const std::vector<Peer>& everybody);
  void opened();  ///< the rank has acknowledged the offer

 private:
  bool processes_are_gone() const;

  const Receipt receipt_;
  mutable std::mutex mutex_;  ///< guards what follows
  Holder holder_;
  bool spent_early_ = false;
  bool let_go_ = false;
};

}  // namespace ckptd::ranks::checkpoint_engine
