// A queue of direct reads in the kernel, as far as a reader needs one: io_uring, or a test that misbehaves as it may.
//
// One thread at a time. Results are those of pread(2): bytes, or the negative error number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"

namespace ckptd::source {

class Ring {
 public:
  struct Ended {
    std::uint64_t tag = 0;
    int result = 0;
  };

  /// Nothing may be under way any more: the kernel would go on writing.
  virtual ~Ring() = default;

  /// Hands the read to the kernel. `tag` is free, and below 2^63.
  virtual void read(int fd, std::uint64_t offset, std::span<std::byte> into, std::uint64_t tag) = 0;

  /// Asks the kernel to end that read early; it still ends with a result.
  virtual void cancel(std::uint64_t tag) = 0;

  /// Appends what has ended; returns when there is something, when nothing is under way, or at the deadline.
  virtual void wait(Deadline deadline, std::vector<Ended>& ended) = 0;
};

/// io_uring of this kernel, with room for `depth` reads. unsupported, with the reason, where it may not be used
/// (kernel.io_uring_disabled, a seccomp filter) or is older than Linux 5.11.
Result<std::unique_ptr<Ring>> make_kernel_ring(unsigned depth);

}  // namespace ckptd::source
