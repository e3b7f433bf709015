#include "daemon/prefetch/passing_hash.h"

#include <algorithm>

namespace ckptd::prefetch {

PassingHash::PassingHash(const Work& work, const Block& block, std::span<weights::Digest> digests)
    : work_(work),
      digests_(digests),
      piece_(block.first_piece),
      end_piece_(block.end_piece),
      at_(block.rest_offset) {}

void PassingHash::add(std::span<const std::byte> part) {
  const auto part_end = at_ + part.size();
  for (; piece_ < end_piece_; ++piece_) {
    const auto& piece = work_.pieces[piece_];
    if (piece.blocks != 1) continue;
    const auto piece_end = piece.rest_offset + piece.bytes;
    const auto from = std::max(at_, piece.rest_offset), to = std::min(part_end, piece_end);
    if (from >= part_end) break;
    stream_.add(part.subspan(from - at_, to - from));
    if (piece_end > part_end) break;
    digests_[piece_] = stream_.finish();
  }
  at_ = part_end;
}

}  // namespace ckptd::prefetch
