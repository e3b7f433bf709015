// Fills the store from a source: parallel, direct where the source can, hashed on the way, cancellable.
//
//   readers (threads)    file blocks of read_bytes, each straight into its segment
//   hashers (threads)    a tensor's 4 MiB pieces, as soon as the last block under a piece has arrived
//
// Blocks the calling thread until everything is read and hashed, the first error, or a stop request; all its threads
// have ended when it returns. It waits for "no progress for T", never for a total.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stop_token>
#include <vector>

#include "common/result.h"
#include "daemon/source/source.h"
#include "daemon/store/store.h"
#include "daemon/weights/layout.h"

namespace ckptd::prefetch {

struct Options {
  unsigned readers = 0;   ///< 0: from the number of processors
  unsigned hashers = 0;   ///< 0: from the number of processors
  std::uint64_t read_bytes = 8 << 20;
  std::chrono::milliseconds no_progress{60'000};
};

/// Counted by the workers, read by anybody.
struct Progress {
  std::atomic<std::uint64_t> read_bytes = 0;
  std::atomic<std::uint64_t> hashed_bytes = 0;
};

struct Filled {
  std::vector<weights::Digest> tensor_digests;  ///< in the manifest's order
  std::uint64_t read_bytes = 0;
  double seconds = 0;
};

/// `memory` holds at least layout.segment_count() segments of layout.segment_bytes(). corrupt when a file changed while
/// it was read, timed_out naming file and offset when nothing moved for options.no_progress, cancelled.
Result<Filled> fill(const source::Source& source, const weights::Layout& layout, const store::Reservation& memory,
                    const Options& options, Progress& progress, std::stop_token stop);

}  // namespace ckptd::prefetch
