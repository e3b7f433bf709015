// What there is to read and to hash, cut before the first thread starts. Pure: values in, values out.
//
//   resting space   |.....block 0.....|.....block 1.....|....block 2....|    read_bytes each, cut at segment borders
//   pieces                 |--p0--|---p1---|-------p2-------|p3|             4 MiB from each tensor's first byte
//
// A piece can be hashed when all blocks that touch it have arrived; a block knows the pieces that it touches.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "daemon/weights/layout.h"
#include "daemon/weights/manifest.h"

namespace ckptd::prefetch {

/// One read. Offsets and `bytes` are multiples of weights::kBlockBytes, so that it can be direct; at the end of a file
/// fewer than `bytes` arrive.
struct Block {
  std::uint32_t file = 0;
  std::uint32_t first_piece = 0;
  std::uint32_t end_piece = 0;
  std::uint64_t file_offset = 0;
  std::uint64_t rest_offset = 0;
  std::uint64_t bytes = 0;          ///< never across a segment border
  std::uint64_t expected_bytes = 0; ///< that the file has here
};

/// One digest, for bytes of one tensor that may cross segment borders.
struct Piece {
  std::uint64_t rest_offset = 0;
  std::uint32_t bytes = 0;
  std::uint32_t blocks = 0;  ///< that touch it
};

struct Work {
  std::vector<Block> blocks;              ///< in the order of the resting space
  std::vector<Piece> pieces;              ///< in the same order
  std::vector<std::uint32_t> tensor_end;  ///< for each tensor of the manifest, the piece after its last one
};

/// `read_bytes` is rounded up to whole 4 KiB. corrupt when tensors overlap or leave their file, internal when manifest
/// and layout do not belong together.
Result<Work> cut_work(const weights::Manifest& manifest, const weights::Layout& layout, std::uint64_t read_bytes);

}  // namespace ckptd::prefetch
