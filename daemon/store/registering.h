// Has the devices' drivers register segments, some at once, while their maker touches the next ones.
//
// A driver goes through all pages of a segment, and several threads may be in it. Used by one thread. Internal to the store.
#pragma once

#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <span>

#include "common/result.h"
#include "daemon/device/device.h"
#include "daemon/store/pinned_segment.h"

namespace ckptd::store {

class Registering {
 public:
  /// Called on the thread that uses this, for each segment that is registered, in the order of add().
  using Ready = std::function<void(std::unique_ptr<PinnedSegment>)>;

  Registering(std::span<device::Device* const> devices, Ready ready) : devices_(devices), ready_(std::move(ready)) {}
  Registering(const Registering&) = delete;
  Registering& operator=(const Registering&) = delete;

  /// Waits for an earlier one where there are many. The error is that one's, and `segment` is given up like it.
  Result<> add(std::unique_ptr<PinnedSegment> segment);
  /// Waits for all. What is registered then is ready, whatever became of others; the first error.
  Result<> settle();

 private:
  struct One {
    std::unique_ptr<PinnedSegment> segment;
    std::future<Result<>> done;  // after the segment, whose memory it uses: it goes first, and waits
  };
  Result<> settle_first();

  const std::span<device::Device* const> devices_;
  const Ready ready_;
  std::deque<One> under_way_;
};

}  // namespace ckptd::store
