#include "daemon/prefetch/crew.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace ckptd::prefetch {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kNoBlock = ~std::uint64_t{0};
/// How much is copied before it is hashed: a processor's own cache should hold it, and a system call is paid for each.
constexpr std::uint64_t kCopyBytes = 256 << 10;
/// How soon a reader that waits for reads or for the budget sees that it should stop.
constexpr milliseconds kTick{50};

std::span<std::byte> in_segments(const store::Reservation& memory, std::uint64_t segment_bytes, std::uint64_t offset,
                                 std::uint64_t limit) {
  auto in_segment = offset % segment_bytes;
  return memory.segments()[offset / segment_bytes]->memory.subspan(in_segment,
                                                                   std::min(limit, segment_bytes - in_segment));
}

/// Adds the time that it lives.
class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<Clock::rep>& total) : total_(total) {}
  ~Stopwatch() { total_ += (Clock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;  // would count twice
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::atomic<Clock::rep>& total_;
  const Clock::time_point start_ = Clock::now();
};

}  // namespace

Crew::Crew(const source::Source& source, const Work& work, const store::Reservation& memory,
           std::uint64_t segment_bytes, const Options& options, Progress& progress)
    : source_(source),
      work_(work),
      memory_(memory),
      segment_bytes_(segment_bytes),
      options_(options),
      progress_(progress),
      missing_blocks_(work.pieces.size()),
      digests_(work.pieces.size()),
      unclaimed_(work.pieces.size()) {
  for (std::size_t i = 0; i < work.pieces.size(); ++i) missing_blocks_[i] = work.pieces[i].blocks;
  ready_.reserve(work.pieces.size());
}

Crew::~Crew() {
  {
    std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  piece_ready_.notify_all();
  stop_asked_.notify_all();
}

Result<> Crew::start(std::vector<std::unique_ptr<source::Reader>> readers, unsigned hashers) {
  readers_ = std::move(readers);
  for (const auto& reader : readers_)
    for (auto& position : positions_.emplace_back(reader->depth())) position.block = kNoBlock;
  threads_.reserve(readers_.size() + hashers);
  // One hasher before the readers: with one of each the work gets done, however few threads there may be.
  unsigned started = 0;
  bool one_hasher = hashers == 0 || add(&Crew::hash_pieces, 0);
  while (one_hasher && started < readers_.size() && add(&Crew::read_blocks, started)) ++started;
  if (!one_hasher || (started == 0 && !readers_.empty()))
    return fail(ErrorKind::no_space,
                "no thread could be started to read the checkpoint; raise TasksMax= of the systemd unit, or "
                "`ulimit -u`");
  for (unsigned i = 1; i < hashers && add(&Crew::hash_pieces, i); ++i) {}
  return {};
}

bool Crew::add(void (Crew::*role)(unsigned), unsigned number) {
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
}

void Crew::run(void (Crew::*role)(unsigned), unsigned number) {
  try {
    lower_priority(options_.priority);
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
  stop_asked_.notify_all();
}

bool Crew::wait_for_end(milliseconds span) {
  std::unique_lock lock(mutex_);
  return thread_ended_.wait_for(lock, span, [this] { return running_ == 0; });
}

std::optional<std::string> Crew::oldest_read() const {
  std::uint64_t oldest = kNoBlock;
  auto since = Clock::duration::max().count();
  for (const auto& of_reader : positions_)
    for (const auto& position : of_reader) {
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

// ---- readers

void Crew::read_blocks(unsigned number) {
  // Its end waits for what is under way, also when an exception leaves this function.
  const auto reader = std::move(readers_[number]);
  Reading reading{.reader = *reader, .positions = positions_[number], .under_way = 0, .done = {}, .stream = {}};
  std::optional<Turn> turn;
  while (!stopping()) {
    if (!turn && reading.under_way < reading.positions.size()) turn = take_turn();
    if (!turn && reading.under_way == 0) return;
    if (turn && turn->not_before <= Clock::now()) {
      begin(turn->block, reading);
      turn.reset();
    } else if (reading.under_way == 0) {
      wait_for_turn(*turn);
    } else {
      const auto tick = Deadline::in(kTick);
      wait_for_reads(turn ? tick.earlier(Deadline(turn->not_before)) : tick, reading);
    }
  }
  reader->cancel();
  while (reading.under_way != 0) wait_for_reads(Deadline::in(kTick), reading);
}

std::optional<Crew::Turn> Crew::take_turn() {
  const auto index = next_block_.fetch_add(1, std::memory_order_relaxed);
  if (index >= work_.blocks.size()) return std::nullopt;
  const auto now = Clock::now();
  return Turn{index, options_.throttle ? options_.throttle->book(work_.blocks[index].expected_bytes, now) : now};
}

/// Waiting for the budget is no standstill: whoever else uses it up gets on.
void Crew::wait_for_turn(const Turn& turn) {
  steps_.fetch_add(1, std::memory_order_relaxed);
  const Stopwatch stopwatch(progress_.throttle_time);
  std::unique_lock lock(mutex_);
  stop_asked_.wait_until(lock, std::min(turn.not_before, Clock::now() + kTick), [this] { return stopping(); });
}

void Crew::begin(std::uint64_t block, Reading& reading) {
  const auto free = std::ranges::find(reading.positions, kNoBlock, [](const auto& each) { return each.block.load(); });
  auto& position = *free;
  position.since = Clock::now().time_since_epoch().count();
  position.block = block;
  const auto& what = work_.blocks[block];
  if (source_.is_in_memory(what.file, what.file_offset, what.expected_bytes)) return copy(block, position, reading.stream);
  reading.reader.submit({.file = what.file,
                         .offset = what.file_offset,
                         .into = in_segments(memory_, segment_bytes_, what.rest_offset, what.bytes),
                         .tag = static_cast<std::uint64_t>(free - reading.positions.begin())});
  ++reading.under_way;
}

void Crew::copy(std::uint64_t index, Position& position, weights::DigestStream& stream) {
  const auto& block = work_.blocks[index];
  const auto into = in_segments(memory_, segment_bytes_, block.rest_offset, block.bytes);
  PassingHash passing(work_, block, digests_);
  Result<std::uint64_t> bytes = 0;
  while (*bytes < into.size()) {
    const auto part = into.subspan(*bytes, std::min(kCopyBytes, into.size() - *bytes));
    const auto got = source_.read(block.file, block.file_offset + *bytes, part);
    if (!got) {
      bytes = std::unexpected(got.error());
      break;
    }
    {
      const Stopwatch stopwatch(progress_.hash_time);
      passing.add(part.first(*got));
    }
    *bytes += *got;
    if (*got < part.size()) break;
  }
  position.block = kNoBlock;
  if (!came(block, bytes)) return;
  progress_.cached_bytes += block.expected_bytes;
  arrived_and_hashed(block, stream);
}

void Crew::wait_for_reads(Deadline deadline, Reading& reading) {
  reading.done.clear();
  reading.reader.wait(deadline, reading.done);
  for (const auto& done : reading.done) {
    auto& position = reading.positions[done.tag];
    const auto& block = work_.blocks[position.block.exchange(kNoBlock)];
    --reading.under_way;
    if (came(block, done.bytes)) arrived(block);
  }
}

/// Whether the whole block is there; else everybody is stopped.
bool Crew::came(const Block& block, const Result<std::uint64_t>& bytes) {
  if (!bytes) {
    stop(bytes.error());
    return false;
  }
  progress_.read_bytes += *bytes;
  if (*bytes == block.expected_bytes) return true;
  bool shorter = *bytes < block.expected_bytes;
  stop({ErrorKind::corrupt,
        fmt::format("{} is {} than when it was opened: {} bytes were read at byte {} where {} should be. Was it changed "
                    "while it was loaded? Load it again when nobody writes it",
                    source_.manifest().files[block.file].path, shorter ? "shorter" : "longer", *bytes,
                    block.file_offset, block.expected_bytes)});
  return false;
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

/// The pieces inside the block have been hashed. Those that it completes are still in the cache for the most part: the
/// reader hashes them itself.
void Crew::arrived_and_hashed(const Block& block, weights::DigestStream& stream) {
  steps_.fetch_add(1, std::memory_order_relaxed);
  std::size_t hashed = 0;
  for (auto index = block.first_piece; index < block.end_piece; ++index) {
    if (missing_blocks_[index].fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
    const auto& piece = work_.pieces[index];
    if (piece.blocks != 1) hash(index, stream);
    progress_.hashed_bytes += piece.bytes;
    ++hashed;
  }
  claim(hashed);
}

// ---- hashers

void Crew::hash_pieces(unsigned) {
  weights::DigestStream stream;
  while (auto piece = next_piece()) {
    hash(*piece, stream);
    progress_.hashed_bytes += work_.pieces[*piece].bytes;
    steps_.fetch_add(1, std::memory_order_relaxed);
  }
}

std::optional<std::uint32_t> Crew::next_piece() {
  std::unique_lock lock(mutex_);
  // Ends by the last piece or by stop(), which the watchdog calls when the source falls silent.
  piece_ready_.wait(lock, [this] { return stopping() || taken_ < ready_.size() || unclaimed_ == 0; });
  if (stopping() || unclaimed_ == 0) return std::nullopt;
  if (--unclaimed_ == 0) piece_ready_.notify_all();
  return ready_[taken_++];
}

void Crew::claim(std::size_t pieces) {
  std::scoped_lock lock(mutex_);
  unclaimed_ -= pieces;
  if (unclaimed_ == 0) piece_ready_.notify_all();
}

void Crew::hash(std::uint32_t index, weights::DigestStream& stream) {
  const Stopwatch stopwatch(progress_.hash_time);
  const auto& piece = work_.pieces[index];
  auto part = in_segments(memory_, segment_bytes_, piece.rest_offset, piece.bytes);
  if (part.size() == piece.bytes) {
    digests_[index] = weights::digest_of(part);
    return;
  }
  for (std::uint64_t done = 0; done < piece.bytes; done += part.size()) {
    part = in_segments(memory_, segment_bytes_, piece.rest_offset + done, piece.bytes - done);
    stream.add(part);
  }
  digests_[index] = stream.finish();
}

}  // namespace ckptd::prefetch
