#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>

#include "common/deadline.h"
#include "common/units.h"
#include "daemon/prefetch/crew.h"
#include "daemon/prefetch/prefetch.h"
#include "daemon/prefetch/work.h"

namespace ckptd::prefetch {
namespace {

using std::chrono::milliseconds;

Error cancelled() { return {ErrorKind::cancelled, "the load was cancelled while its bytes were read"}; }

Result<> check_memory(const weights::Layout& layout, const store::Reservation& memory) {
  auto of_that_size = [&](const auto* segment) { return segment->memory.size() == layout.segment_bytes(); };
  if (layout.segment_bytes() % weights::kBlockBytes == 0 && memory.segments().size() >= layout.segment_count() &&
      std::ranges::all_of(memory.segments(), of_that_size))
    return {};
  return fail(ErrorKind::internal, "{} segments with {} were reserved for a layout of {} segments of {}",
              memory.segments().size(), show_bytes(memory.bytes()), layout.segment_count(),
              show_bytes(layout.segment_bytes()));
}

/// More threads than blocks or pieces would only start and end.
unsigned threads(unsigned wished, unsigned by_default, std::size_t jobs) {
  return static_cast<unsigned>(std::min<std::size_t>(wished != 0 ? wished : by_default, jobs));
}

unsigned processors() { return std::max(1U, std::thread::hardware_concurrency()); }

/// A reader that queues keeps a disk busy alone; there are several for the copies of what lies in memory. Readers that
/// block must be more than the processors.
std::vector<std::unique_ptr<source::Reader>> make_readers(const source::Source& source, const Options& options,
                                                          std::size_t blocks) {
  const auto queueing = std::max(1U, threads(options.readers, std::min(8U, processors()), blocks));
  source::ReaderOptions each{.io_uring = options.io_uring, .depth = std::max(2U, options.queue_depth / queueing)};
  std::vector<std::unique_ptr<source::Reader>> readers;
  readers.push_back(source.make_reader(each));
  each.io_uring = readers.front()->depth() > 1;
  const auto count =
      each.io_uring ? queueing : threads(options.readers, std::min(8U, 2 * processors()), blocks);
  while (readers.size() < count) readers.push_back(source.make_reader(each));
  return readers;
}

/// Tells whether a crew gets on. Time is counted in ticks that it was given, so that a process which was stopped or
/// frozen for an hour does not come back to a time-out.
class Watchdog {
 public:
  explicit Watchdog(milliseconds no_progress)
      : tick_(std::clamp(no_progress / kTicks, milliseconds(1), milliseconds(1000))), patience_(no_progress) {}

  milliseconds tick() const { return tick_; }

  /// To be called once a tick: true each time when nothing moved for the whole of `no_progress`.
  bool stalled(std::uint64_t steps) {
    waited_ = steps == last_steps_ ? waited_ + tick_ : milliseconds(0);
    last_steps_ = steps;
    if (waited_ < patience_) return false;
    waited_ = milliseconds(0);
    return true;
  }

 private:
  static constexpr int kTicks = 10;
  milliseconds tick_, patience_, waited_{0};
  std::uint64_t last_steps_ = 0;
};

/// Returns when no thread is left. The kernel offers no way to end a read that hangs in a dead disk or server, and its
/// pages may be written until it ends; so after a time-out or a cancellation this still waits for it, and meanwhile
/// says so in the log, each time that no_progress passes.
void watch(Crew& crew, milliseconds no_progress) {
  Watchdog watchdog(no_progress);
  while (!crew.wait_for_end(watchdog.tick())) {
    if (!watchdog.stalled(crew.steps())) continue;
    auto where = crew.oldest_read().value_or("an unknown place");
    bool told_to_stop = crew.error().has_value();
    Error error{ErrorKind::timed_out,
                fmt::format("reading {} has not moved for {}; check the disk or the file server behind it, then load "
                            "again",
                            where, show_seconds(std::chrono::duration<double>(no_progress).count()))};
    spdlog::error("{}{}. The load ends, and its memory is free again, as soon as the kernel ends this read",
                  told_to_stop ? "still waiting for a read after the load was stopped: " : "", error.sentence);
    crew.stop(std::move(error));
  }
}

std::vector<weights::Digest> combine(const Work& work, std::span<const weights::Digest> digests) {
  std::vector<weights::Digest> of_tensors;
  of_tensors.reserve(work.tensor_end.size());
  std::uint32_t begin = 0;
  for (auto end : work.tensor_end) {
    of_tensors.push_back(weights::combine_pieces(digests.subspan(begin, end - begin)));
    begin = end;
  }
  return of_tensors;
}

}  // namespace

Result<Filled> fill(const source::Source& source, const weights::Layout& layout, const store::Reservation& memory,
                    const Options& options, Progress& progress, std::stop_token stop) {
  auto started = Clock::now();
  CKPTD_TRY(check_memory(layout, memory));
  const auto read_bytes = options.throttle ? options.throttle->even(options.read_bytes) : options.read_bytes;
  const auto work = CKPTD_TRY(cut_work(source.manifest(), layout, read_bytes));
  auto readers = make_readers(source, options, work.blocks.size());
  const std::string backend(readers.front()->backend());
  if (work.blocks.empty()) readers.clear();

  Crew crew(source, work, memory, layout.segment_bytes(), options, progress);
  std::stop_callback on_stop(stop, [&crew] { crew.stop(cancelled()); });
  if (auto crewed = crew.start(std::move(readers),
                               threads(options.hashers, std::clamp(processors() / 2, 1U, 16U), work.pieces.size()));
      !crewed)
    crew.stop(std::move(crewed).error());
  watch(crew, options.no_progress);

  if (auto error = crew.error()) return std::unexpected(std::move(*error));
  CKPTD_TRY(source.check_unchanged());
  if (stop.stop_requested()) return std::unexpected(cancelled());
  return Filled{.tensor_digests = combine(work, crew.digests()),
                .read_bytes = progress.read_bytes,
                .cached_bytes = progress.cached_bytes,
                .seconds = std::chrono::duration<double>(Clock::now() - started).count(),
                .hash_seconds = progress.hash_seconds(),
                .throttle_seconds = progress.throttle_seconds(),
                .backend = backend};
}

}  // namespace ckptd::prefetch
