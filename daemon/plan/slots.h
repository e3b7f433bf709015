// Gives out ranges of an arena like a ring and remembers which bucket had each range last.
#pragma once

#include <cstdint>
#include <map>

namespace ckptd::plan {

class Slots {
 public:
  explicit Slots(std::uint64_t arena_bytes) : arena_bytes_(arena_bytes) {}

  struct Slot {
    std::uint64_t offset = 0;
    std::uint32_t after = 0;  ///< 1 + the last earlier bucket that overlaps this slot; 0 if none does
  };

  /// The next range for bucket number `bucket`; bytes <= arena_bytes. Buckets come in ascending order.
  Slot take(std::uint32_t bucket, std::uint64_t bytes);

 private:
  struct Owned {
    std::uint64_t end;
    std::uint32_t bucket;
  };
  std::uint64_t arena_bytes_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Owned> owned_;  ///< begin -> who wrote there last; disjoint
};

}  // namespace ckptd::plan
