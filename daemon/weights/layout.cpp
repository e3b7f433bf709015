#include "daemon/weights/layout.h"

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

}  // namespace ckptd::weights
