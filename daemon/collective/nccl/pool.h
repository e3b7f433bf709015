// The sets of communicators that there are: lent to a group, waiting for the next one, or ending. Internal to
// collective/nccl. Safe from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/collective/nccl/communicators.h"

namespace ckptd::collective::nccl {

class Pool {
 public:
  /// Each keeps memory of its GPUs: the one that was used least recently goes when there are more.
  static constexpr std::size_t kMostIdle = 4;

  Pool(std::shared_ptr<const Library> library, Natives natives, Patience patience);

  /// Those of these devices in this order if they wait here and are well, else new ones. A stop request ends the wait.
  Result<std::shared_ptr<Communicators>> borrow(const std::vector<device::Device*>& devices,
                                                const std::vector<std::string>& names, const std::stop_token& stop);
  /// Of a group that ended well.
  void give_back(std::shared_ptr<Communicators> communicators) noexcept;
  /// Finishes those that wait for their next group; how many.
  std::size_t drop_idle() noexcept;
  void close(Deadline by) noexcept;
  /// Waits until all have ended, as ~Groups() says.
  void drain();

  const Natives& natives() const { return natives_; }
  std::size_t epochs() const;
  std::size_t idle() const;

 private:
  std::shared_ptr<Communicators> take_idle(const std::vector<device::Device*>& devices);
  Result<std::shared_ptr<Communicators>> begin(const std::vector<device::Device*>& devices,
                                               const std::vector<std::string>& names);

  const std::shared_ptr<const Library> library_;
  const Natives natives_;
  const Patience patience_;

  mutable std::mutex mutex_;
  std::optional<Deadline> closed_by_;  // since close()
  std::size_t epochs_ = 0;
  std::vector<std::shared_ptr<Communicators>> idle_;  // the oldest first
  std::vector<std::weak_ptr<Communicators>> all_;     // those that may not have ended
};

}  // namespace ckptd::collective::nccl
