// Hashes bytes as they pass: a block that a processor has just copied is still in its cache, and reading it again later
// would cost the memory's bandwidth a third time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "daemon/prefetch/work.h"
#include "daemon/weights/digest.h"

namespace ckptd::prefetch {

/// For the pieces that lie wholly in one block. One thread at a time; `work` and `digests` outlive it.
class PassingHash {
 public:
  PassingHash(const Work& work, const Block& block, std::span<weights::Digest> digests);

  /// The next bytes of the block, in order.
  void add(std::span<const std::byte> part);

 private:
  const Work& work_;
  std::span<weights::Digest> digests_;
  std::uint32_t piece_, end_piece_;
  std::uint64_t at_;  ///< offset in the resting space
  weights::DigestStream stream_;
};

}  // namespace ckptd::prefetch
