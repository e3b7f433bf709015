// Gives out ranges of an arena like a ring and remembers which bucket had each range last.
#pragma once

#include <cstdint>
#include <map>

namespace ckptd::plan {

class Slots {
 public:
  /// Slots start at multiples of `alignment`.
  Slots(std::uint64_t arena_bytes, std::uint64_t alignment) : arena_bytes_(arena_bytes), alignment_(alignment) {}

  struct Slot {
    std::uint64_t offset = 0;
    std::uint32_t after = 0;  ///< 1 + the last earlier bucket that overlaps this slot; 0 if none does
  };

  /// The next range for bucket number `bucket`; bytes <= arena_bytes. Buckets come in ascending order. `following_bytes`
  /// is what the next bucket will ask for, 0 after the last: two neighbours that fit the arena together never overlap,
  /// so that one is uploaded while the other is reloaded.
  Slot take(std::uint32_t bucket, std::uint64_t bytes, std::uint64_t following_bytes);

 private:
  struct Owned {
    std::uint64_t end;
    std::uint32_t bucket;
  };
  std::uint64_t offset_for(std::uint64_t bytes, std::uint64_t following_bytes) const;

  std::uint64_t arena_bytes_, alignment_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Owned> owned_;  ///< begin -> who wrote there last; disjoint
};

}  // namespace ckptd::plan
