#include "daemon/prefetch/identify.h"

#include <algorithm>

namespace ckptd::prefetch {

Result<std::vector<weights::Digest>> identify(const source::Source& source, std::atomic<std::uint64_t>& read_bytes,
                                              std::stop_token stop) {
  std::vector<std::byte> buffer(weights::kDigestPieceBytes);
  std::vector<weights::Digest> digests, pieces;
  for (const auto& tensor : source.manifest().tensors) {
    pieces.clear();
    for (std::uint64_t done = 0; done < tensor.extent.bytes;) {
      if (stop.stop_requested()) return fail(ErrorKind::cancelled, "reading {} was cancelled", tensor.name);
      const auto piece = std::span(buffer).first(std::min(tensor.extent.bytes - done, weights::kDigestPieceBytes));
      const auto got = CKPTD_TRY(source.read(tensor.extent.file, tensor.extent.offset + done, piece));
      if (got != piece.size())
        return fail(ErrorKind::corrupt, "{} ends inside tensor {}",
                    source.manifest().files[tensor.extent.file].path, tensor.name);
      pieces.push_back(weights::digest_of(piece));
      done += piece.size();
      read_bytes += piece.size();
    }
    digests.push_back(weights::combine_pieces(pieces));
  }
  CKPTD_TRY(source.check_unchanged());
  return digests;
}

}  // namespace ckptd::prefetch
