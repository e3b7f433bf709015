// The part of one device in an update of a vLLM server: turns steps into what the engine is told, and waits at the
// meeting until the engine has been called for all devices. How the bytes are told or carried is the backend's.
//
// A server whose draft model has weights in the checkpoint wants everything once more: then the session begins again.
//
// No custodian is needed: nobody waits at an endpoint of ours. Whoever goes away leaves a server whose weight update is
// open, which the caller closes, or the next update does.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "daemon/device/device.h"
#include "daemon/ranks/session.h"
#include "daemon/ranks/vllm/meeting.h"

namespace ckptd::ranks::vllm {

class MeetingSession : public Session {
 public:
  /// vLLM splits a bucket at the sizes of its tensors and copies each out before it answers.
  static constexpr Traits kTraits{.run_alignment = 256, .reloads_in_flight = 1, .gapless = true};

  MeetingSession(std::shared_ptr<Meeting> meeting, Meeting::Member member, std::string device);
  ~MeetingSession() override;

  const std::string& endpoint() const override { return endpoint_; }
  const std::string& device() const override { return device_; }
  Traits traits() const override { return kTraits; }
  std::optional<Peer> peer() const override { return std::nullopt; }
  bool touched() const override { return touched_; }

  Result<> offer(const device::Export& memory) override;
  Result<> reload(std::span<const TensorView> tensors, std::uint32_t number) override;
  Result<> release() override;
  Result<> finish() override;
  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override;
  Result<Woken> wait_again(std::span<const int> wakers, Deadline deadline) override;
  void fail(const Error& reason) noexcept override;
  void retire(const Error&) noexcept override {}  // nobody comes to it
  void discard() noexcept override;

 protected:
  /// What the caller needs to know of a bucket's bytes, which begin at `offset` of the offered memory.
  virtual Result<WireMemory> memory_of(std::uint64_t offset, std::uint64_t bytes) = 0;

  Meeting& meeting() const { return *meeting_; }
  std::shared_ptr<const Meeting> shared_meeting() const { return meeting_; }
  const device::Export& offered() const { return *memory_; }  ///< since offer()

 private:
  Result<> arrive(Meeting::Arrival arrival);
  Error name_culprit(const Error& error) const;
  Error timed_out() const;

  const std::shared_ptr<Meeting> meeting_;
  const Meeting::Member member_;
  const std::string device_;
  const std::string endpoint_;  ///< none
  std::optional<device::Export> memory_;
  Step step_ = Step::offer;
  std::uint32_t number_ = 0;
  Clock::time_point step_begun_ = Clock::now();
  bool touched_ = false;
  bool finishing_ = false, finished_ = false;
};

}  // namespace ckptd::ranks::vllm
