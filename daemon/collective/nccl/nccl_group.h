// Groups whose bytes NCCL carries between the GPUs of this process.
//
// Members meet on the host (daemon/collective/group_state.h), so that whoever is missing is known by name and NCCL is
// called only when all have come, with calls that fit together. How group.h's promise about streams is kept: a
// broadcast works in place on each member's stream, after what was queued there, and NCCL has done with a member's slot
// when that member's stream goes on. The owner's may go on before others have the bytes, but not before they were read.
//
// Making communicators takes seconds and some hundred MB of each GPU: they outlive the group and serve the next one of
// the same devices in the same order. A group that ends with an error takes them with it, and its successor begins a
// new epoch with a new unique id.
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/collective/group.h"
#include "daemon/collective/nccl/communicators.h"

namespace ckptd::collective::nccl {

class Pool;

/// Owns communicators between groups. Members may outlive it, devices may not be destroyed before either. Safe from any
/// thread.
class Groups {
 public:
  Groups(std::shared_ptr<const Library> library, Natives natives, Patience patience);
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;
  /// Finishes the communicators that nobody uses. Waits for all to end, not longer than Patience::drain and three times
  /// Patience::stuck, nor than until close() said; what has not ended then is left to the end of the process.
  ~Groups();

  /// One member for each device, in order; `names` are for messages ("GPU-1f..."). The first group of these devices
  /// blocks until their communicators are made, for at most Patience::start, or until a stop request: then cancelled. No
  /// device may come twice.
  Result<std::vector<std::unique_ptr<Member>>> make_group(const std::vector<device::Device*>& devices,
                                                          const std::vector<std::string>& names,
                                                          std::stop_token stop = {});

  /// Lets go of the sets that wait for their next group, and with them of their memory of the GPUs; how many. Blocks for
  /// nobody: their own threads finish them.
  std::size_t drop_idle() noexcept;

  /// Makes no more groups, and ends the wait of who makes one. Who waits for a group's end or step waits no longer than until
  /// `by`, and ~Groups() not longer either, or half a second: NCCL may hang.
  void close(Deadline by) noexcept;

  /// How many sets were made so far, and how many wait for their next group.
  std::size_t epochs() const;
  std::size_t idle() const;

 private:
  const std::shared_ptr<Pool> pool_;
};

}  // namespace ckptd::collective::nccl
