// How one thread has many reads of a source under way at once.
//
// A Reader belongs to one thread at a time; its source must outlive it. Backends: "io_uring" (direct reads queued in
// the kernel) and "pread" (one read at a time, done by wait()). Between submit() and the Done of a read, its memory
// belongs to the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"

namespace ckptd::source {

class Source;

struct ReaderOptions {
  bool io_uring = true;  ///< as far as the kernel, the sandbox and the file system allow it
  unsigned depth = 8;    ///< of a reader that queues
};

/// As the arguments of Source::read(). `tag` comes back with the Done.
struct Read {
  std::uint32_t file = 0;
  std::uint64_t offset = 0;
  std::span<std::byte> into;
  std::uint64_t tag = 0;
};

struct Done {
  std::uint64_t tag = 0;
  Result<std::uint64_t> bytes;  ///< as Source::read() answers
};

class Reader {
 public:
  /// Cancels what is under way and blocks until nothing is: afterwards no memory given to submit() is written. A read
  /// that hangs in a dead disk or file server can be neither cancelled nor abandoned, so this waits as long as the
  /// kernel does.
  virtual ~Reader() = default;

  virtual std::string_view backend() const = 0;
  /// How many reads may be under way; 1 for a reader whose wait() does the reading.
  virtual unsigned depth() const = 0;

  /// At most depth() reads at once. Blocks for a read that cannot be queued: one that is not aligned, or of a file
  /// whose file system refuses direct reads.
  virtual void submit(const Read& read) = 0;

  /// Appends the reads that have ended, in any order; returns when there is one, when nothing is under way, or at the
  /// deadline, which a reader of depth 1 cannot keep.
  virtual void wait(Deadline deadline, std::vector<Done>& done) = 0;

  /// Asks for an early end of all reads under way: each still gets its Done, cancelled or not.
  virtual void cancel() = 0;
};

/// Of depth 1, over source.read().
std::unique_ptr<Reader> make_blocking_reader(const Source& source);

}  // namespace ckptd::source
