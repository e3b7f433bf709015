#include <liburing.h>

#include <cerrno>
#include <deque>
#include <thread>

#include "daemon/source/ring.h"

namespace ckptd::source {
namespace {

constexpr std::uint64_t kCancelTag = std::uint64_t{1} << 63;  // of the requests that cancel others

bool is_transient(int error_number) {
  return error_number == EINTR || error_number == EAGAIN || error_number == EBUSY;
}

class KernelRing final : public Ring {
 public:
  KernelRing() = default;
  KernelRing(const KernelRing&) = delete;  // the kernel knows its queues by address
  KernelRing& operator=(const KernelRing&) = delete;
  ~KernelRing() override {
    if (made_) ::io_uring_queue_exit(&ring_);
  }

  Result<> make(unsigned depth) {
    // As many places again for cancelling each read.
    if (int result = ::io_uring_queue_init(2 * depth, &ring_, 0); result < 0)
      return std::unexpected(unsupported(system_error(-result, "io_uring_setup")));
    made_ = true;
    // Waiting with a time-out without a request for it, and no completion that is lost.
    constexpr unsigned kNeeded = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
    if ((ring_.features & kNeeded) != kNeeded)
      return fail(ErrorKind::unsupported, "io_uring of this kernel is older than that of Linux 5.11");
    return {};
  }

  void read(int fd, std::uint64_t offset, std::span<std::byte> into, std::uint64_t tag) override {
    ++under_way_;
    auto* request = ::io_uring_get_sqe(&ring_);
    if (request == nullptr) return refuse(tag, EBUSY);
    ::io_uring_prep_read(request, fd, into.data(), static_cast<unsigned>(into.size()), offset);
    ::io_uring_sqe_set_data64(request, tag);
    waiting_.push_back(tag);
    hand_over();
  }

  void cancel(std::uint64_t tag) override {
    auto* request = ::io_uring_get_sqe(&ring_);
    if (request == nullptr) return;  // then it ends in its own time
    ::io_uring_prep_cancel64(request, tag, 0);
    ::io_uring_sqe_set_data64(request, kCancelTag);
    waiting_.push_back(kCancelTag);
    hand_over();
  }

  void wait(Deadline deadline, std::vector<Ended>& ended) override {
    const auto before = ended.size();
    while (true) {
      hand_over();
      take_ended(ended);
      if (ended.size() != before || under_way_ == 0 || deadline.passed()) return;
      sleep(deadline);
    }
  }

 private:
  static Error unsupported(Error error) {
    error.kind = ErrorKind::unsupported;
    return error;
  }

  void refuse(std::uint64_t tag, int error_number) {
    if (tag != kCancelTag) refused_.push_back({tag, -error_number});
  }

  /// The kernel takes requests in order. One that it did not take is tried again by wait(), or, when the kernel will
  /// never take another one, ends with that error.
  void hand_over() {
    while (!broken_ && !waiting_.empty()) {
      const int taken = ::io_uring_submit(&ring_);
      if (taken == 0 || (taken < 0 && is_transient(-taken))) return;
      if (taken < 0) broken_ = -taken;
      for (int i = 0; i < taken && !waiting_.empty(); ++i) waiting_.pop_front();
    }
    if (!broken_) return;
    for (auto tag : waiting_) refuse(tag, broken_);
    waiting_.clear();
  }

  void take_ended(std::vector<Ended>& ended) {
    ::io_uring_cqe* completion = nullptr;
    while (::io_uring_peek_cqe(&ring_, &completion) == 0 && completion != nullptr) {
      if (completion->user_data != kCancelTag) refused_.push_back({completion->user_data, completion->res});
      ::io_uring_cqe_seen(&ring_, completion);
    }
    under_way_ -= refused_.size();
    ended.insert(ended.end(), refused_.begin(), refused_.end());
    refused_.clear();
  }

  void sleep(Deadline deadline) {
    constexpr std::chrono::nanoseconds kTick = std::chrono::milliseconds(100), kShort = std::chrono::milliseconds(1);
    // A request that the kernel would not take now is offered again soon.
    const auto longest = waiting_.empty() ? kTick : kShort;
    const auto span = std::clamp<std::chrono::nanoseconds>(deadline.at() - Clock::now(), std::chrono::nanoseconds(0), longest);
    ::__kernel_timespec timeout{.tv_sec = 0, .tv_nsec = span.count()};
    ::io_uring_cqe* completion = nullptr;
    const int result = ::io_uring_wait_cqe_timeout(&ring_, &completion, &timeout);
    if (result < 0 && result != -ETIME && result != -EINTR) std::this_thread::sleep_for(kShort);
  }

  ::io_uring ring_{};
  bool made_ = false;
  int broken_ = 0;                     ///< why the kernel takes no more requests
  std::size_t under_way_ = 0;          ///< reads without their result
  std::deque<std::uint64_t> waiting_;  ///< in the queue, not yet taken by the kernel
  std::vector<Ended> refused_;         ///< ended, to be told
};

}  // namespace

Result<std::unique_ptr<Ring>> make_kernel_ring(unsigned depth) {
  auto ring = std::make_unique<KernelRing>();
  CKPTD_TRY(ring->make(depth));
  return ring;
}

}  // namespace ckptd::source
