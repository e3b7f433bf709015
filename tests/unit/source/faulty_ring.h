// A ring that does what the kernel may: reads end in an order drawn from a seed, short, interrupted, refused or
// cancelled. It reads with pread(2) and into memory that was scribbled over.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>

#include "daemon/source/ring.h"

namespace ckptd::tests {

class FaultyRing final : public source::Ring {
 public:
  /// What the next read shall do; errors are negative.
  enum Fault { none, cut_to_blocks, cut_anywhere, interrupted, again, refused, broken, nothing };
  using Faults = std::vector<Fault>;  ///< one is drawn for each read

  FaultyRing(unsigned seed, Faults faults) : random_(seed), faults_(std::move(faults)) {}

  ~FaultyRing() override {
    if (!queue_.empty()) std::abort();  // a kernel would go on writing
  }

  void read(int fd, std::uint64_t offset, std::span<std::byte> into, std::uint64_t tag) override {
    queue_.push_back({fd, offset, into, tag, false});
  }
  void cancel(std::uint64_t tag) override {
    for (auto& each : queue_) each.cancelled = each.cancelled || (each.tag == tag && random_() % 2 == 0);
  }
  void wait(Deadline, std::vector<Ended>& ended) override {
    std::shuffle(queue_.begin(), queue_.end(), random_);
    for (auto ending = random_() % (queue_.size() + 1); ending > 0; --ending) {
      ended.push_back({queue_.back().tag, carry_out(queue_.back())});
      queue_.pop_back();
    }
  }

 private:
  struct Queued {
    int fd;
    std::uint64_t offset;
    std::span<std::byte> into;
    std::uint64_t tag;
    bool cancelled;
  };

  int carry_out(const Queued& read) {
    std::memset(read.into.data(), 0xee, read.into.size());
    if (read.cancelled) return -ECANCELED;
    auto bytes = read.into.size();
    switch (faults_[random_() % faults_.size()]) {
      case interrupted: return -EINTR;
      case again: return -EAGAIN;
      case refused: return -EINVAL;
      case broken: return -EIO;
      case nothing: return 0;
      case cut_to_blocks: bytes = std::max<std::size_t>(4096, random_() % bytes / 4096 * 4096); break;
      case cut_anywhere: return static_cast<int>(std::min<::ssize_t>(1 + random_() % bytes, read_all(read)));
      case none: break;
    }
    const auto got = ::pread(read.fd, read.into.data(), bytes, static_cast<::off_t>(read.offset));
    return got < 0 ? -errno : static_cast<int>(got);
  }
  /// Only what it answers counts.
  static ::ssize_t read_all(const Queued& read) {
    return ::pread(read.fd, read.into.data(), read.into.size(), static_cast<::off_t>(read.offset));
  }

  std::mt19937 random_;
  Faults faults_;
  std::vector<Queued> queue_;
};

}  // namespace ckptd::tests
