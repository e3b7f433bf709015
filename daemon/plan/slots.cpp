#include "daemon/plan/slots.h"

#include <algorithm>

namespace ckptd::plan {

Slots::Slot Slots::take(std::uint32_t bucket, std::uint64_t bytes) {
  Slot slot;
  slot.offset = next_ + bytes <= arena_bytes_ ? next_ : 0;
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
