// One segment: a memfd, its mapping, its lock and its registrations; all go together when it is destroyed.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"
#include "daemon/device/device.h"
#include "daemon/store/store.h"

namespace ckptd::store {

/// Not thread-safe; used by the one that makes it, then only read. Address and description never change after map(),
/// lock() and register_with(), so neither copied nor moved.
class PinnedSegment {
 public:
  /// Touches nothing yet. `numa_node` -1: anywhere. With `huge_pages` it fails when the machine's pool cannot give all
  /// pages now, before anything could be a SIGBUS.
  static Result<std::unique_ptr<PinnedSegment>> map(std::uint32_t number, std::uint64_t bytes, int numa_node,
                                                    bool huge_pages);
  ~PinnedSegment();
  PinnedSegment(const PinnedSegment&) = delete;
  PinnedSegment& operator=(const PinnedSegment&) = delete;

  /// Touches the next `limit` bytes, as far as there are that many (blocks, see touch.h); `touched` is told what is
  /// there in all.
  Result<> touch(std::uint64_t limit, std::stop_token stop, const std::function<void(std::uint64_t)>& touched);
  std::uint64_t touched_bytes() const { return touched_bytes_; }
  bool is_touched() const { return touched_bytes_ == description_.memory.size(); }

  /// Keeps the pages from being swapped out. The error has the limit and says how to raise it.
  Result<> lock();
  Result<> register_with(std::span<device::Device* const> devices);

  const Segment& description() const { return description_; }

 private:
  PinnedSegment() = default;
  Result<> map_memfd(std::uint64_t bytes, bool huge_pages);

  UniqueFd memfd_;
  Segment description_;
  int wished_node_ = -1;
  std::uint64_t touched_bytes_ = 0;
  std::vector<std::unique_ptr<device::HostRegistration>> registrations_;
};

}  // namespace ckptd::store
