// The threads of one fill(), and what they share.
//
// Readers take blocks in order; the reader that brings the last block under a piece puts the piece into the queue of
// the hashers. The queue can hold every piece, so a reader never waits for a hasher, and nothing is allocated while
// threads run. The first error stops everybody at their next block or piece.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/prefetch/prefetch.h"
#include "daemon/prefetch/work.h"

namespace ckptd::prefetch {

class Crew {
 public:
  /// Everything named here must outlive the crew.
  Crew(const source::Source& source, const Work& work, const store::Reservation& memory, std::uint64_t segment_bytes,
       Progress& progress);
  /// Asks the threads to stop and waits for them: none may write into the segments afterwards.
  ~Crew();
  Crew(const Crew&) = delete;  // threads hold its address
  Crew& operator=(const Crew&) = delete;

  /// Starts threads. Fewer than asked for are no error, none is.
  Result<> start(unsigned readers, unsigned hashers);

  /// Keeps the first error and asks everybody to stop. Safe from any thread.
  void stop(Error error);

  /// Waits until all threads have ended, or for `span`; whether they have.
  bool wait_for_end(std::chrono::milliseconds span);

  /// Rises with each block and piece.
  std::uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }
  /// The read that has been under way for longest, as "/a/b.safetensors at byte 4096"; nothing when nobody reads.
  std::optional<std::string> oldest_read() const;

  /// After the end: the error that stopped it, if one did.
  std::optional<Error> error() const;
  /// After the end: one digest for each piece.
  const std::vector<weights::Digest>& digests() const { return digests_; }

 private:
  /// Where a reader is, for the watchdog.
  struct Position {
    std::atomic<std::uint64_t> block;
    std::atomic<Clock::rep> since;
  };

  void run(void (Crew::*role)(unsigned), unsigned number);
  void read_blocks(unsigned number);
  void hash_pieces(unsigned number);
  Result<> read(const Block& block);
  void arrived(const Block& block);
  std::optional<std::uint32_t> next_piece();
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

  const source::Source& source_;
  const Work& work_;
  const store::Reservation& memory_;
  const std::uint64_t segment_bytes_;
  Progress& progress_;

  std::atomic<std::uint64_t> next_block_ = 0;
  std::atomic<std::uint64_t> steps_ = 0;
  std::atomic<bool> stopping_ = false;
  std::vector<std::atomic<std::uint32_t>> missing_blocks_;  ///< for each piece
  std::vector<weights::Digest> digests_;
  std::vector<Position> positions_;                         ///< for each reader

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable piece_ready_;
  std::condition_variable thread_ended_;
  std::vector<std::uint32_t> ready_;  ///< reserved for all pieces
  std::size_t taken_ = 0;             ///< of ready_
  unsigned running_ = 0;
  std::optional<Error> error_;

  std::vector<std::jthread> threads_;
};

}  // namespace ckptd::prefetch
