// A reader that queues over any source and behaves as badly as it may: reads end in an order drawn from a seed, in any
// number at once, after their memory was scribbled over, and when cancelled with or without their bytes. It counts the
// reads that are under way over all readers of a test, so that one which outlives fill() shows.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "daemon/source/source.h"

namespace ckptd::test {

class ShufflingReader final : public source::Reader {
 public:
  /// Whether this read, the n-th that was submitted anywhere, shall not end before it is cancelled.
  using Hangs = std::function<bool(int read)>;

  struct Shared {
    std::atomic<int> submitted = 0, under_way = 0, too_many = 0;
    Hangs hangs;
  };

  ShufflingReader(const source::Source& source, unsigned depth, unsigned seed, Shared& shared)
      : source_(source), depth_(depth), random_(seed), shared_(shared) {}
  ~ShufflingReader() override { shared_.under_way -= static_cast<int>(queue_.size()); }

  std::string_view backend() const override { return "shuffling"; }
  unsigned depth() const override { return depth_; }

  void submit(const source::Read& read) override {
    if (queue_.size() == depth_) ++shared_.too_many;
    const auto number = shared_.submitted++;
    queue_.push_back({read, shared_.hangs && shared_.hangs(number)});
    ++shared_.under_way;
  }

  void wait(Deadline deadline, std::vector<source::Done>& done) override {
    for (auto& queued : queue_)
      if (random_() % 4 == 0) std::memset(queued.read.into.data(), 0xee, queued.read.into.size());
    std::shuffle(queue_.begin(), queue_.end(), random_);
    std::stable_partition(queue_.begin(), queue_.end(), [&](const Queued& each) { return each.hangs && !cancelled_; });
    auto ending = random_() % (queue_.size() + 1);
    bool any = false;
    for (; ending > 0 && !queue_.empty() && (cancelled_ || !queue_.back().hangs); --ending) {
      const auto read = queue_.back().read;
      queue_.pop_back();
      --shared_.under_way;
      done.push_back({read.tag, cancelled_ && random_() % 2 == 0
                                    ? Result<std::uint64_t>(fail(ErrorKind::cancelled, "cancelled by the reader"))
                                    : source_.read(read.file, read.offset, read.into)});
      any = true;
    }
    if (!any && !queue_.empty() && random_() % 2 == 0)
      std::this_thread::sleep_until(std::min(deadline.at(), Clock::now() + std::chrono::milliseconds(1)));
  }

  void cancel() override { cancelled_ = true; }

 private:
  struct Queued {
    source::Read read;
    bool hangs;
  };

  const source::Source& source_;
  const unsigned depth_;
  std::mt19937 random_;
  Shared& shared_;
  bool cancelled_ = false;
  std::vector<Queued> queue_;
};

}  // namespace ckptd::test
