// Same bytes held once: a version that has just been loaded gives up what other resident versions have as well.
//
//   arrived   |aaaa|bbbb|XXcc|        two own segments' worth of aabbcc rests in other versions, XX does not
//   others    ..aaaabbbb.. ..cc..
//   folded    own |XX..|  + others' segments, by reference
//
// A tensor is the same when its digest and its size are. The rest of the arrived version moves together into as few of
// its own segments as possible; the others go back to the store. Only a version that nobody can lease yet is folded: its
// bytes move, those of the others never do.
//
// A segment that is referred to stays when its first holder is evicted, with all that lay in it. So that this waste has a
// bound, a segment is shared only if the arrived version uses at least half of what was ever filled in it: a version
// never keeps more than twice its bytes from the store, but for one segment's tail for each version that it shares with.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "daemon/catalogue/catalogue.h"

namespace ckptd::catalogue {

/// Decided, nothing done. Holds references to the segments that will be shared, so the others may be evicted meanwhile.
struct Fold {
  /// Bytes of the arrived version that move down its own line of segments (offset / segment_bytes is the segment). In
  /// ascending order, and never upwards.
  struct Move {
    std::uint64_t from = 0, to = 0, bytes = 0;
  };
  std::vector<Move> moves;
  std::uint64_t own_bytes = 0;                         ///< how far the own line is filled afterwards
  std::vector<Held> shared;                            ///< stand behind the own segments that stay
  std::vector<weights::Layout::Stretch> stretches;     ///< of the folded layout
  std::uint64_t shared_bytes = 0;                      ///< of tensors
  std::uint64_t freed_segments = 0;
};

/// Nothing when no whole segment would become free. Blocks for as long as it takes to look up every tensor.
std::optional<Fold> plan_fold(const Contents& arrived, std::span<const Contents* const> resident);

/// Moves the bytes and gives the free segments back. Blocks for the copying. cancelled at a stop request: the contents
/// are void then.
Result<> carry_out(Fold fold, Contents& arrived, const std::stop_token& stop);

}  // namespace ckptd::catalogue
