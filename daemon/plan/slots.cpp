#include "daemon/plan/slots.h"

#include <algorithm>

#include "common/units.h"

namespace ckptd::plan {

/// The last bucket of a lap stands at the arena's end: what the lap leaves over lies before it, where the first bucket
/// of the next lap can use it.
std::uint64_t Slots::offset_for(std::uint64_t bytes, std::uint64_t following_bytes) const {
  if (next_ + bytes > arena_bytes_) return 0;
  const bool last_of_lap = next_ > 0 && next_ + bytes + following_bytes > arena_bytes_;
  return last_of_lap ? round_down(arena_bytes_ - bytes, alignment_) : next_;
}

Slots::Slot Slots::take(std::uint32_t bucket, std::uint64_t bytes, std::uint64_t following_bytes) {
  Slot slot;
  slot.offset = offset_for(bytes, following_bytes);
  const std::uint64_t end = slot.offset + bytes;
  next_ = end;
  if (bytes == 0) return slot;

  auto at = owned_.upper_bound(slot.offset);
  if (at != owned_.begin() && std::prev(at)->second.end > slot.offset) --at;
  while (at != owned_.end() && at->first < end) {
    const auto [begin, old] = *at;
    slot.after = std::max(slot.after, old.bucket + 1);
    at = owned_.erase(at);
    if (begin < slot.offset) owned_.emplace(begin, Owned{slot.offset, old.bucket});
    if (old.end > end) owned_.emplace(end, Owned{old.end, old.bucket});
  }
  owned_.emplace(slot.offset, Owned{end, bucket});
  return slot;
}

}  // namespace ckptd::plan
