// The slots of the budget and the segments in them: who has which, and how new ones come into being.
//
// A reservation first takes its places in the budget and its share of the free memory under the lock, all or nothing,
// and only then touches memory, outside the lock: two that run at once can never promise the same bytes. The public
// face is Store.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "daemon/store/pinned_segment.h"
#include "daemon/store/store.h"

namespace ckptd::store {

using Touched = std::function<void(std::uint64_t)>;

class Pool {
 public:
  Pool(const Options& options, std::uint64_t segment_bytes, std::vector<device::Device*> devices);
  ~Pool();

  Result<std::vector<const Segment*>> take(std::uint64_t count, const std::stop_token& stop, const Touched& touched);
  void take_back(std::span<const Segment* const> segments) noexcept;
  std::uint64_t trim();
  Usage usage() const;
  std::uint64_t segment_bytes() const { return segment_bytes_; }

 private:
  enum class Use { idle, lent, leaving };

  /// A place in the budget. Empty while its segment is being made or given back to the system.
  struct Slot {
    std::unique_ptr<PinnedSegment> segment;
    Use use = Use::lent;
    int numa_node = -1;  ///< where it is wished to be
  };

  /// What one take() has got so far.
  struct Claim {
    std::vector<const Segment*> segments;  ///< idle_count idle ones, then those made
    std::uint64_t idle_count = 0;
    std::vector<std::uint32_t> to_make;
    std::uint64_t huge_count = 0;      ///< so many of to_make found room in the machine's pool of huge pages
    std::uint64_t promised_bytes = 0;  ///< of the others, as far as they are not touched yet
  };

  Result<Claim> claim(std::uint64_t count);
  Result<> make_all(Claim& claim, const std::stop_token& stop, const Touched& touched);
  Result<> make_one(std::uint32_t number, bool try_huge_pages, Claim& claim, const std::stop_token& stop,
                    const Touched& touched);
  Result<std::unique_ptr<PinnedSegment>> make_pages(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                    const std::stop_token& stop, const Touched& touched);
  Result<> lock(PinnedSegment& segment);
  /// Gives a claim's places back. Memory goes back to the system before its place in the budget does.
  void abandon(const Claim& claim, bool keep_what_is_ready);

  void keep_promise(std::uint64_t bytes, Claim& claim);
  std::uint64_t huge_segments_possible() const;
  // With the mutex held:
  Result<> promise(std::uint64_t bytes, Claim& claim);
  std::uint64_t in_use() const;
  int next_node() const;

  const Options options_;
  const std::uint64_t segment_bytes_;
  const std::uint64_t budget_segments_;
  const std::vector<device::Device*> devices_;
  const std::vector<int> numa_nodes_;

  mutable std::mutex mutex_;  // guards everything below
  std::map<std::uint32_t, Slot> slots_;
  std::uint32_t next_number_ = 0;
  std::uint64_t promised_bytes_ = 0;  ///< admitted and not touched yet: the kernel still shows it as free
  bool warned_about_locking_ = false;
};

}  // namespace ckptd::store
