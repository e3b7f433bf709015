#include "daemon/prefetch/identify.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace ckptd::prefetch {
namespace {

/// Whether the time came before the stop request did.
bool sleep_until(Clock::time_point time, const std::stop_token& stop) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any nobody_wakes;
  nobody_wakes.wait_until(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace

Result<std::vector<weights::Digest>> identify(const source::Source& source, std::atomic<std::uint64_t>& read_bytes,
                                              std::stop_token stop, Throttle* throttle) {
  std::vector<std::byte> buffer(weights::kDigestPieceBytes);
  std::vector<weights::Digest> digests, pieces;
  for (const auto& tensor : source.manifest().tensors) {
    pieces.clear();
    for (std::uint64_t done = 0; done < tensor.extent.bytes;) {
      const auto piece = std::span(buffer).first(std::min(tensor.extent.bytes - done, weights::kDigestPieceBytes));
      const auto turn = throttle != nullptr ? throttle->book(piece.size(), Clock::now()) : Clock::now();
      if (!sleep_until(turn, stop)) return fail(ErrorKind::cancelled, "reading {} was cancelled", tensor.name);
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
