// Fills the store from a source: parallel, direct where the source can, hashed on the way, cancellable.
//
//   readers (threads)    file blocks of read_bytes, each straight into its segment: queued where they come from a disk,
//                        copied and hashed by the reader itself where they lie in memory already
//   hashers (threads)    a tensor's 4 MiB pieces, as soon as the last block under a piece has arrived from the disk
//
// Blocks the calling thread until everything is read and hashed, the first error, or a stop request; all its threads
// have ended and nothing writes into the segments any more when it returns. It waits for "no progress for T", never for
// a total.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/prefetch/thread_priority.h"
#include "daemon/prefetch/throttle.h"
#include "daemon/source/source.h"
#include "daemon/store/store.h"
#include "daemon/weights/layout.h"

namespace ckptd::prefetch {

struct Options {
  unsigned readers = 0;      ///< 0: from the number of processors
  unsigned hashers = 0;      ///< 0: from the number of processors
  bool io_uring = true;      ///< as far as it is allowed
  unsigned queue_depth = 16; ///< reads under way in all, where a reader can queue
  std::uint64_t read_bytes = 8 << 20;
  std::chrono::milliseconds no_progress{60'000};
  ThreadPriority priority{};             ///< of readers and hashers
  std::shared_ptr<Throttle> throttle{};  ///< shared with all other loads; absent: no limit
};

/// Of one fill(). Counted by the workers, read by anybody; tells how far a fill() came that failed.
struct Progress {
  std::atomic<std::uint64_t> read_bytes = 0;
  std::atomic<std::uint64_t> cached_bytes = 0;  ///< of read_bytes, those that lay in memory
  std::atomic<std::uint64_t> hashed_bytes = 0;
  std::atomic<Clock::rep> hash_time = 0;        ///< summed over all threads
  std::atomic<Clock::rep> throttle_time = 0;    ///< the same, waiting for the budget

  double hash_seconds() const { return std::chrono::duration<double>(Clock::duration(hash_time.load())).count(); }
  double throttle_seconds() const {
    return std::chrono::duration<double>(Clock::duration(throttle_time.load())).count();
  }
};

struct Filled {
  std::vector<weights::Digest> tensor_digests;  ///< in the manifest's order
  std::uint64_t read_bytes = 0;
  std::uint64_t cached_bytes = 0;               ///< of read_bytes, those that lay in memory
  double seconds = 0;
  double hash_seconds = 0;                      ///< summed over all threads
  double throttle_seconds = 0;                  ///< the same, waiting for the budget
  std::string backend;                          ///< how what was not in memory was read: "io_uring", "pread"
};

/// `memory` holds at least layout.segment_count() segments of layout.segment_bytes(). corrupt when a file changed while
/// it was read, timed_out naming file and offset when nothing moved for options.no_progress, cancelled.
Result<Filled> fill(const source::Source& source, const weights::Layout& layout, const store::Reservation& memory,
                    const Options& options, Progress& progress, std::stop_token stop);

}  // namespace ckptd::prefetch
