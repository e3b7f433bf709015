#include "daemon/prefetch/work.h"

#include <algorithm>
#include <limits>

#include "common/units.h"

namespace ckptd::prefetch {
namespace {

using weights::kBlockBytes;
using weights::Layout;
using weights::Manifest;

void cut_file(std::uint32_t file, const Layout& layout, std::uint64_t read_bytes, std::vector<Block>& blocks) {
  const auto& range = layout.files()[file];
  const auto aligned_end = round_up(range.file_end, kBlockBytes);
  for (auto at = range.file_begin; at < aligned_end;) {
    auto rest = layout.resting_offset(file, at);
    auto to_segment_border = layout.segment_bytes() - rest % layout.segment_bytes();
    // Ends on multiples of read_bytes in the file, so that reads stay aligned with stripes of disks and servers.
    auto to_read_border = read_bytes - at % read_bytes;
    auto bytes = std::min({to_read_border, to_segment_border, aligned_end - at});
    Block block{.file = file, .file_offset = at, .rest_offset = rest, .bytes = bytes};
    block.expected_bytes = std::min(bytes, range.file_end - at);
    blocks.push_back(block);
    at += bytes;
  }
}

void cut_tensor(std::uint64_t rest_offset, std::uint64_t bytes, std::vector<Piece>& pieces) {
  for (std::uint64_t done = 0; done < bytes; done += weights::kDigestPieceBytes)
    pieces.push_back({.rest_offset = rest_offset + done,
                      .bytes = static_cast<std::uint32_t>(std::min(weights::kDigestPieceBytes, bytes - done))});
}

/// Walks both lists once; each is in the order of the resting space and without overlaps.
void join(std::vector<Block>& blocks, std::vector<Piece>& pieces) {
  std::uint32_t first = 0;
  for (auto& block : blocks) {
    while (first < pieces.size() && pieces[first].rest_offset + pieces[first].bytes <= block.rest_offset) ++first;
    block.first_piece = block.end_piece = first;
    while (block.end_piece < pieces.size() && pieces[block.end_piece].rest_offset < block.rest_offset + block.bytes)
      ++pieces[block.end_piece++].blocks;
  }
}

Result<> check_tensor(const weights::Tensor& tensor, const Layout& layout, std::uint64_t previous_end) {
  const auto& extent = tensor.extent;
  if (extent.file >= layout.files().size())
    return fail(ErrorKind::internal, "tensor {} is said to be in file {} of {}", tensor.name, extent.file,
                layout.files().size());
  const auto& range = layout.files()[extent.file];
  if (extent.offset < range.file_begin || extent.offset > range.file_end ||
      extent.bytes > range.file_end - extent.offset)
    return fail(ErrorKind::corrupt, "tensor {} leaves its file: {} bytes at {} of {}", tensor.name, extent.bytes,
                extent.offset, range.file_end);
  if (layout.resting_offset(extent) < previous_end)
    return fail(ErrorKind::corrupt, "tensor {} at byte {} overlaps the tensor before it", tensor.name, extent.offset);
  return {};
}

}  // namespace

Result<Work> cut_work(const Manifest& manifest, const Layout& layout, std::uint64_t read_bytes) {
  if (layout.files().size() != manifest.files.size())
    return fail(ErrorKind::internal, "a layout of {} files does not fit a manifest of {}", layout.files().size(),
                manifest.files.size());
  read_bytes = round_up(std::clamp<std::uint64_t>(read_bytes, kBlockBytes, kGiB), kBlockBytes);

  Work work;
  for (std::uint32_t file = 0; file < manifest.files.size(); ++file) cut_file(file, layout, read_bytes, work.blocks);
  std::uint64_t previous_end = 0;
  for (const auto& tensor : manifest.tensors) {
    if (tensor.extent.bytes != 0) {
      CKPTD_TRY(check_tensor(tensor, layout, previous_end));
      auto begin = layout.resting_offset(tensor.extent);
      cut_tensor(begin, tensor.extent.bytes, work.pieces);
      previous_end = begin + tensor.extent.bytes;
    }
    if (work.pieces.size() > std::numeric_limits<std::uint32_t>::max())
      return fail(ErrorKind::unsupported, "a version of more than {} pieces of 4 MiB", work.pieces.size());
    work.tensor_end.push_back(static_cast<std::uint32_t>(work.pieces.size()));
  }
  join(work.blocks, work.pieces);
  return work;
}

}  // namespace ckptd::prefetch
