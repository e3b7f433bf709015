#include "daemon/weights/layout.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace ckptd::weights {

Layout::Layout(const Manifest& manifest, std::uint64_t segment_bytes) : segment_bytes_(segment_bytes) {
  for (const auto& file : manifest.files) {
    FileRange range;
    range.file_begin = round_down(file.data_begin, kBlockBytes);
    range.file_end = file.bytes;
    range.rest_begin = total_bytes_;
    files_.push_back(range);
    total_bytes_ += round_up(range.file_end - range.file_begin, kBlockBytes);
  }
}

Layout::Place Layout::place(std::uint64_t resting_offset) const {
  if (resting_offset >= total_bytes_) return {};
  if (!is_folded_) {
    const auto offset = resting_offset % segment_bytes_;
    return {static_cast<std::uint32_t>(resting_offset / segment_bytes_), offset,
            std::min(segment_bytes_ - offset, total_bytes_ - resting_offset)};
  }
  auto after = std::ranges::upper_bound(stretches_, resting_offset, {}, &Stretch::rest_begin);
  if (after == stretches_.begin()) return {};
  const auto& stretch = *std::prev(after);
  const auto inside = resting_offset - stretch.rest_begin;
  if (inside >= stretch.bytes) return {};
  return {stretch.segment, stretch.offset + inside, stretch.bytes - inside};
}

Layout Layout::folded(std::vector<Stretch> stretches) const {
  Layout layout = *this;
  layout.is_folded_ = true;
  layout.stretches_.clear();
  for (const auto& stretch : stretches) {
    auto* last = layout.stretches_.empty() ? nullptr : &layout.stretches_.back();
    if (last != nullptr && last->rest_begin + last->bytes == stretch.rest_begin && last->segment == stretch.segment &&
        last->offset + last->bytes == stretch.offset)
      last->bytes += stretch.bytes;
    else if (stretch.bytes > 0)
      layout.stretches_.push_back(stretch);
  }
  return layout;
}

}  // namespace ckptd::weights
