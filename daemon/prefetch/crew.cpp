#include "daemon/prefetch/crew.h"

#include <algorithm>
#include <system_error>
#include <utility>


namespace ckptd::prefetch {
namespace {

constexpr std::uint64_t kNoBlock = ~std::uint64_t{0};

std::span<std::byte> in_segments(const store::Reservation& memory, std::uint64_t segment_bytes, std::uint64_t offset,
                                 std::uint64_t limit) {
  auto in_segment = offset % segment_bytes;
  return memory.segments()[offset / segment_bytes]->memory.subspan(in_segment,
                                                                   std::min(limit, segment_bytes - in_segment));
}

}  // namespace

Crew::Crew(const source::Source& source, const Work& work, const store::Reservation& memory,
           std::uint64_t segment_bytes, Progress& progress)
    : source_(source),
      work_(work),
      memory_(memory),
      segment_bytes_(segment_bytes),
      progress_(progress),
      missing_blocks_(work.pieces.size()),
      digests_(work.pieces.size()) {
  for (std::size_t i = 0; i < work.pieces.size(); ++i) missing_blocks_[i] = work.pieces[i].blocks;
  ready_.reserve(work.pieces.size());
}

Crew::~Crew() {
  {
    std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  piece_ready_.notify_all();
}

Result<> Crew::start(unsigned readers, unsigned hashers) {
  positions_ = std::vector<Position>(readers);
  for (auto& position : positions_) position.block = kNoBlock;
  threads_.reserve(readers + hashers);
  // One hasher before the readers: with one of each the work gets done, however few threads there may be.
  auto add = [this](void (Crew::*role)(unsigned), unsigned number) {
    {
      std::scoped_lock lock(mutex_);
      ++running_;
    }
    try {
      threads_.emplace_back([this, role, number] { run(role, number); });
      return true;
    } catch (const std::system_error&) {
      std::scoped_lock lock(mutex_);
      --running_;
      return false;
    }
  };
  unsigned started = 0;
  bool one_hasher = hashers == 0 || add(&Crew::hash_pieces, 0);
  while (one_hasher && started < readers && add(&Crew::read_blocks, started)) ++started;
  if (!one_hasher || (started == 0 && readers != 0))
    return fail(ErrorKind::no_space,
                "no thread could be started to read the checkpoint; raise TasksMax= of the systemd unit, or "
                "`ulimit -u`");
  for (unsigned i = 1; i < hashers && add(&Crew::hash_pieces, i); ++i) {}
  return {};
}

void Crew::run(void (Crew::*role)(unsigned), unsigned number) {
  try {
    (this->*role)(number);
  } catch (const std::exception& exception) {
    stop({ErrorKind::internal, fmt::format("a thread that loads a checkpoint ended with: {}", exception.what())});
  }
  std::scoped_lock lock(mutex_);
  --running_;
  thread_ended_.notify_all();
}

void Crew::stop(Error error) {
  {
    std::scoped_lock lock(mutex_);
    if (!error_) error_ = std::move(error);
    stopping_ = true;
  }
  piece_ready_.notify_all();
}

bool Crew::wait_for_end(std::chrono::milliseconds span) {
  std::unique_lock lock(mutex_);
  return thread_ended_.wait_for(lock, span, [this] { return running_ == 0; });
}

std::optional<std::string> Crew::oldest_read() const {
  std::uint64_t oldest = kNoBlock;
  auto since = Clock::duration::max().count();
  for (const auto& position : positions_) {
    auto block = position.block.load();
    if (block == kNoBlock || position.since.load() >= since) continue;
    oldest = block;
    since = position.since.load();
  }
  if (oldest == kNoBlock) return std::nullopt;
  const auto& block = work_.blocks[oldest];
  return fmt::format("{} at byte {}", source_.manifest().files[block.file].path, block.file_offset);
}

std::optional<Error> Crew::error() const {
  std::scoped_lock lock(mutex_);
  return error_;
}

void Crew::read_blocks(unsigned number) {
  auto& position = positions_[number];
  while (!stopping()) {
    auto index = next_block_.fetch_add(1, std::memory_order_relaxed);
    if (index >= work_.blocks.size()) break;
    position.since = Clock::now().time_since_epoch().count();
    position.block = index;
    auto done = read(work_.blocks[index]);
    position.block = kNoBlock;
    if (!done) return stop(std::move(done).error());
    arrived(work_.blocks[index]);
  }
}

Result<> Crew::read(const Block& block) {
  auto into = in_segments(memory_, segment_bytes_, block.rest_offset, block.bytes);
  auto read_bytes = CKPTD_TRY(source_.read(block.file, block.file_offset, into));
  progress_.read_bytes += read_bytes;
  if (read_bytes == block.expected_bytes) return {};
  bool shorter = read_bytes < block.expected_bytes;
  return fail(ErrorKind::corrupt,
              "{} is {} than when it was opened: {} bytes were read at byte {} where {} should be. Was it changed "
              "while it was loaded? Load it again when nobody writes it",
              source_.manifest().files[block.file].path, shorter ? "shorter" : "longer", read_bytes, block.file_offset,
              block.expected_bytes);
}

void Crew::arrived(const Block& block) {
  steps_.fetch_add(1, std::memory_order_relaxed);
  std::unique_lock lock(mutex_, std::defer_lock);
  std::size_t became_ready = 0;
  for (auto piece = block.first_piece; piece < block.end_piece; ++piece) {
    if (missing_blocks_[piece].fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
    if (!lock) lock.lock();
    ready_.push_back(piece);
    ++became_ready;
  }
  if (became_ready == 0) return;
  lock.unlock();
  if (became_ready == 1) {
    piece_ready_.notify_one();
  } else {
    piece_ready_.notify_all();
  }
}

std::optional<std::uint32_t> Crew::next_piece() {
  std::unique_lock lock(mutex_);
  // Ends by the last piece or by stop(), which the watchdog calls when the source falls silent.
  piece_ready_.wait(lock, [this] { return stopping() || taken_ < ready_.size() || taken_ == work_.pieces.size(); });
  if (stopping() || taken_ == work_.pieces.size()) return std::nullopt;
  auto piece = ready_[taken_++];
  if (taken_ == work_.pieces.size()) piece_ready_.notify_all();
  return piece;
}

void Crew::hash_pieces(unsigned) {
  weights::DigestStream stream;
  while (auto index = next_piece()) {
    const auto& piece = work_.pieces[*index];
    auto part = in_segments(memory_, segment_bytes_, piece.rest_offset, piece.bytes);
    if (part.size() == piece.bytes) {
      digests_[*index] = weights::digest_of(part);
    } else {
      for (std::uint64_t done = 0; done < piece.bytes; done += part.size()) {
        part = in_segments(memory_, segment_bytes_, piece.rest_offset + done, piece.bytes - done);
        stream.add(part);
      }
      digests_[*index] = stream.finish();
    }
    progress_.hashed_bytes += piece.bytes;
    steps_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace ckptd::prefetch
