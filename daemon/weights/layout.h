// Where the bytes of a version rest in the store.
//
// Direct I/O needs file offset and address aligned alike, and tensors in a file are not aligned. So the store keeps a
// file's layout modulo 4 KiB: the file from the 4 KiB block that holds its first tensor byte to its end rests as one
// range of the version's *resting space*, a line of bytes that starts at 0 and is cut into segments of equal size.
//
//   file 0        |hdr|#########tensors#########|      (data_begin inside the second block, say)
//   resting space     [blk|blk|blk|blk|blk|blk|.][file 1 ...        each file starts on a block
//   segments      |<--- segment_bytes --->|<--- segment_bytes --->|
//
// No byte is copied or moved on the host between disk and upload; a tensor may cross a segment border.
//
// A version that was folded keeps its resting space, but *stretches* of it lie elsewhere: in segments of other versions
// that have the same bytes, or closer together in its own. What belongs to no tensor then lies nowhere.
#pragma once

#include <cstdint>
#include <vector>

#include "common/units.h"
#include "daemon/weights/manifest.h"

namespace ckptd::weights {

inline constexpr std::uint64_t kBlockBytes = 4096;

class Layout {
 public:
  /// `segment_bytes` is a multiple of kBlockBytes.
  Layout(const Manifest& manifest, std::uint64_t segment_bytes);

  struct FileRange {
    std::uint64_t file_begin = 0;  ///< offset in the file, on a block border
    std::uint64_t file_end = 0;    ///< the file's size: the last block may be partial
    std::uint64_t rest_begin = 0;  ///< offset in the resting space, on a block border
  };

  /// Bytes of the resting space that lie together in one of the version's segments.
  struct Stretch {
    std::uint64_t rest_begin = 0;
    std::uint64_t bytes = 0;
    std::uint32_t segment = 0;  ///< number among the version's segments
    std::uint64_t offset = 0;   ///< in that segment
  };

  /// Where a byte lies, and how many of the resting space follow there without a break; 0 bytes where nothing lies.
  struct Place {
    std::uint32_t segment = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  Place place(std::uint64_t resting_offset) const;

  /// The same resting space at other places. `stretches` do not overlap and are in the order of the resting space.
  Layout folded(std::vector<Stretch> stretches) const;

  const std::vector<FileRange>& files() const { return files_; }
  std::uint64_t segment_bytes() const { return segment_bytes_; }
  std::uint64_t total_bytes() const { return total_bytes_; }
  /// What it takes to load the version; one that was folded holds fewer, or others'.
  std::uint64_t segment_count() const { return (total_bytes_ + segment_bytes_ - 1) / segment_bytes_; }

  /// Offset in the resting space of a byte of a file at or after data_begin.
  std::uint64_t resting_offset(std::uint32_t file, std::uint64_t file_offset) const {
    return files_[file].rest_begin + (file_offset - files_[file].file_begin);
  }
  std::uint64_t resting_offset(const Extent& extent) const { return resting_offset(extent.file, extent.offset); }

 private:
  std::uint64_t segment_bytes_;
  std::uint64_t total_bytes_ = 0;
  std::vector<FileRange> files_;
  bool is_folded_ = false;
  std::vector<Stretch> stretches_;  ///< of a folded layout
};

}  // namespace ckptd::weights
