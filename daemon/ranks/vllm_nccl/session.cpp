#include "daemon/ranks/vllm_nccl/session.h"

namespace ckptd::ranks::vllm_nccl {
namespace {

/// NCCL, of our own process, in memory that it was given and has not come back from, or is about to be given.
class LinkHold final : public Hold {
 public:
  LinkHold(std::shared_ptr<const vllm::Meeting> meeting, std::string device, std::shared_ptr<Link> link)
      : holder_{meeting->engine(), std::move(device), {}}, meeting_(std::move(meeting)), link_(std::move(link)) {}

  /// In this order: a bucket is out before NCCL has it.
  bool let_go() override { return !meeting_->is_out() && link_->quiet(); }
  Holder holder() const override { return holder_; }
  std::string why() const override {
    if (!meeting_->is_out() && link_->quiet()) return "NCCL is done with it";
    return "NCCL has not come back from a broadcast of it, and did not let go when it was aborted: restart ckptd";
  }

 private:
  const Holder holder_;
  const std::shared_ptr<const vllm::Meeting> meeting_;
  const std::shared_ptr<Link> link_;
};

}  // namespace

NcclSession::NcclSession(std::shared_ptr<vllm::Meeting> meeting, vllm::Meeting::Member member, std::string device,
                         std::shared_ptr<const Sending> sending)
    : MeetingSession(std::move(meeting), member, std::move(device)), sending_(std::move(sending)) {}

std::shared_ptr<Hold> NcclSession::hold() const {
  auto link = sending_->link();
  if (!link) return nullptr;
  auto hold = std::make_shared<LinkHold>(shared_meeting(), device(), std::move(link));
  return hold->let_go() ? nullptr : std::move(hold);
}

Result<vllm::WireMemory> NcclSession::memory_of(std::uint64_t offset, std::uint64_t bytes) {
  return vllm::WireMemory{.handle = {}, .offset = offset, .bytes = bytes, .counter_name = {}};
}

}  // namespace ckptd::ranks::vllm_nccl
