#include "daemon/ranks/vllm_nccl/session.h"

namespace ckptd::ranks::vllm_nccl {
namespace {

/// NCCL, of our own process, in memory that it was given and has not come back from.
class LinkHold final : public Hold {
 public:
  LinkHold(std::string engine, std::string device, std::shared_ptr<Link> link)
      : holder_{std::move(engine), std::move(device), {}}, link_(std::move(link)) {}

  bool let_go() override { return link_->quiet(); }
  Holder holder() const override { return holder_; }
  std::string why() const override {
    if (link_->quiet()) return "NCCL is done with it";
    return "NCCL has not come back from a broadcast of it, and did not let go when it was aborted: restart ckptd";
  }

 private:
  const Holder holder_;
  const std::shared_ptr<Link> link_;
};

}  // namespace

NcclSession::NcclSession(std::shared_ptr<vllm::Meeting> meeting, vllm::Meeting::Member member, std::string device,
                         std::shared_ptr<const Sending> sending)
    : MeetingSession(std::move(meeting), member, std::move(device)), sending_(std::move(sending)) {}

std::shared_ptr<Hold> NcclSession::hold() const {
  auto link = sending_->link();
  if (!link || link->quiet()) return nullptr;
  return std::make_shared<LinkHold>(meeting().engine(), device(), std::move(link));
}

Result<vllm::WireMemory> NcclSession::memory_of(std::uint64_t offset, std::uint64_t bytes) {
  return vllm::WireMemory{.handle = {}, .offset = offset, .bytes = bytes, .counter_name = {}};
}

}  // namespace ckptd::ranks::vllm_nccl
