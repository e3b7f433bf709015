// The slots of the budget and the segments in them: who has which, and how new ones come into being.
//
// A reservation first takes its places in the budget and its share of the free memory under the lock, all or nothing,
// and only then touches memory, outside the lock: two that run at once can never promise the same bytes. What is made
// ready ahead of use grows in one segment at a time, and gives way: a reservation waits for the step that is under way,
// takes the segment over as far as it has come, and no step begins while a reservation is being made. The public face
// is Store.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
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

  Result<std::vector<const Segment*>> take(std::uint64_t count, const std::stop_token& stop, const Touched& touched,
                                           const MakeRoom& make_room);
  void take_back(std::span<const Segment* const> segments) noexcept;
  std::uint64_t trim();

  /// One step ahead of use, by one thread at a time: waits until no reservation is being made, then touches `step_bytes`
  /// more, and locks and registers the segment once it is whole. How many bytes it touched: 0 when the budget is ready,
  /// or at a stop request.
  Result<std::uint64_t> prepare(std::uint64_t step_bytes, const std::stop_token& stop);
  Usage usage() const;
  std::uint64_t segment_bytes() const { return segment_bytes_; }
  std::uint64_t budget_bytes() const { return budget_segments_ * segment_bytes_; }

 private:
  enum class Use { idle, lent, leaving, ahead };  ///< ahead: begun by prepare(), anybody's to take over

  /// A place in the budget. Empty while its segment is made for a reservation or given back to the system.
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
    std::unique_ptr<PinnedSegment> begun;  ///< to_make.front(), when prepare() had begun it
    std::uint64_t huge_count = 0;      ///< so many of the others found room in the machine's pool of huge pages
    std::uint64_t promised_bytes = 0;  ///< of the others, as far as they are not touched yet
  };

  /// Why a claim was refused, and how many more idle segments would let it through; 0: no number would.
  struct Refusal {
    Error error;
    std::uint64_t missing_segments = 0;
  };

  /// While it lives, prepare() pauses.
  class Precedence;

  Result<Claim> claim(std::uint64_t count, const MakeRoom& make_room);
  std::expected<Claim, Refusal> try_claim(std::uint64_t count);
  Result<> make_all(Claim& claim, const std::stop_token& stop, const Touched& touched);
  /// Touched and locked; what is left is its registration.
  Result<std::unique_ptr<PinnedSegment>> make_one(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                  const std::stop_token& stop, const Touched& touched);
  Result<std::unique_ptr<PinnedSegment>> make_pages(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                    const std::stop_token& stop, const Touched& touched);
  /// Locked and registered, it is fit for use.
  Result<> finish(PinnedSegment& segment);
  Result<> lock(PinnedSegment& segment);
  /// Gives a claim's places back. Memory goes back to the system before its place in the budget does.
  void abandon(Claim& claim, bool keep_what_is_ready);
  Result<> advance(PinnedSegment& segment, std::uint64_t step_bytes, const std::stop_token& stop);

  void keep_promise(std::uint64_t bytes, Claim& claim);
  std::uint64_t huge_segments_possible() const;
  // With the mutex held:
  Result<> promise(std::uint64_t bytes, Claim& claim);
  Result<> begin_ahead();
  std::uint64_t in_use() const;
  int next_node() const;

  const Options options_;
  const std::uint64_t segment_bytes_;
  const std::uint64_t budget_segments_;
  const std::vector<device::Device*> devices_;
  const std::vector<int> numa_nodes_;

  std::mutex room_mutex_;     // one at a time claims and makes room; taken before mutex_
  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable_any precedence_changed_;
  unsigned being_made_ = 0;   ///< reservations
  bool stepping_ = false;     ///< prepare() works on the segment of ahead_, outside the mutex
  std::optional<std::uint32_t> ahead_;  ///< the slot whose use is ahead
  std::uint64_t ahead_promised_bytes_ = 0;
  std::map<std::uint32_t, Slot> slots_;
  std::uint32_t next_number_ = 0;
  std::uint64_t promised_bytes_ = 0;  ///< admitted and not touched yet: the kernel still shows it as free
  bool warned_about_locking_ = false;
};

}  // namespace ckptd::store
