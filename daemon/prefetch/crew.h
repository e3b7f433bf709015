// The threads of one fill(), and what they share.
//
// Readers take blocks in order. A block that lies in memory is copied and hashed by its reader, any other is queued; the
// reader that brings the last block under a piece puts the piece into the queue of the hashers. That queue can hold
// every piece, so a reader never waits for a hasher. The first error stops everybody: what is under way is cancelled,
// and a thread ends when nothing of its own is under way any more.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/prefetch/passing_hash.h"
#include "daemon/prefetch/prefetch.h"
#include "daemon/prefetch/work.h"
#include "daemon/source/reader.h"

namespace ckptd::prefetch {

class Crew {
 public:
  /// Everything named here must outlive the crew.
  Crew(const source::Source& source, const Work& work, const store::Reservation& memory, std::uint64_t segment_bytes,
       const Options& options, Progress& progress);
  /// Asks the threads to stop and waits for them: none may write into the segments afterwards.
  ~Crew();
  Crew(const Crew&) = delete;  // threads hold its address
  Crew& operator=(const Crew&) = delete;

  /// Starts one thread for each reader, and the hashers. Fewer than asked for are no error, none is.
  Result<> start(std::vector<std::unique_ptr<source::Reader>> readers, unsigned hashers);

  /// Keeps the first error and asks everybody to stop. Safe from any thread.
  void stop(Error error);

  /// Waits until all threads have ended, or for `span`; whether they have.
  bool wait_for_end(std::chrono::milliseconds span);

  /// Rises with each block and piece, and while a reader waits for the budget.
  std::uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }
  /// The read that has been under way for longest, as "/a/b.safetensors at byte 4096"; nothing when nobody reads.
  std::optional<std::string> oldest_read() const;

  /// After the end: the error that stopped it, if one did.
  std::optional<Error> error() const;
  /// After the end: one digest for each piece.
  const std::vector<weights::Digest>& digests() const { return digests_; }

 private:
  /// One read under way, for the watchdog.
  struct Position {
    std::atomic<std::uint64_t> block;
    std::atomic<Clock::rep> since;
  };
  /// What one reader thread is about.
  struct Reading {
    source::Reader& reader;
    std::span<Position> positions;  ///< one for each read under way
    std::size_t under_way = 0;
    std::vector<source::Done> done;
    weights::DigestStream stream;
  };
  /// A block that a reader has taken and may not read before `not_before`.
  struct Turn {
    std::uint64_t block;
    Clock::time_point not_before;
  };

  bool add(void (Crew::*role)(unsigned), unsigned number);
  void run(void (Crew::*role)(unsigned), unsigned number);

  void read_blocks(unsigned number);
  std::optional<Turn> take_turn();
  void wait_for_turn(const Turn& turn);
  void begin(std::uint64_t block, Reading& reading);
  void copy(std::uint64_t block, Position& position, weights::DigestStream& stream);
  void wait_for_reads(Deadline deadline, Reading& reading);
  bool came(const Block& block, const Result<std::uint64_t>& bytes);
  void arrived(const Block& block);
  void arrived_and_hashed(const Block& block, weights::DigestStream& stream);

  void hash_pieces(unsigned number);
  std::optional<std::uint32_t> next_piece();
  void claim(std::size_t pieces);
  void hash(std::uint32_t piece, weights::DigestStream& stream);
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

  const source::Source& source_;
  const Work& work_;
  const store::Reservation& memory_;
  const std::uint64_t segment_bytes_;
  const Options& options_;
  Progress& progress_;

  std::atomic<std::uint64_t> next_block_ = 0;
  std::atomic<std::uint64_t> steps_ = 0;
  std::atomic<bool> stopping_ = false;
  std::vector<std::atomic<std::uint32_t>> missing_blocks_;  ///< for each piece
  std::vector<weights::Digest> digests_;
  std::vector<std::unique_ptr<source::Reader>> readers_;    ///< each is its thread's
  std::vector<std::vector<Position>> positions_;            ///< for each reader

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable piece_ready_;
  std::condition_variable stop_asked_;
  std::condition_variable thread_ended_;
  std::vector<std::uint32_t> ready_;  ///< reserved for all pieces
  std::size_t taken_ = 0;             ///< of ready_
  std::size_t unclaimed_ = 0;         ///< pieces that nobody hashes or has hashed
  unsigned running_ = 0;
  std::optional<Error> error_;

  std::vector<std::jthread> threads_;
};

}  // namespace ckptd::prefetch
