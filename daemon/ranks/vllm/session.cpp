#include "daemon/ranks/vllm/session.h"

#include <poll.h>

#include <cerrno>
#include <utility>

#include "common/units.h"
#include "daemon/ranks/torch_types.h"

namespace ckptd::ranks::vllm {
namespace {

Result<std::vector<WireTensor>> wire_tensors(std::span<const TensorView> tensors) {
  std::vector<WireTensor> wire;
  wire.reserve(tensors.size());
  std::uint64_t end = tensors.empty() ? 0 : tensors.front().offset;
  for (const auto& tensor : tensors) {
    const auto torch_name = torch_name_of(tensor.dtype);
    if (!torch_name)
      return ckptd::fail(ErrorKind::unsupported, "tensor {}: torch has no type for {}", tensor.name,
                         weights::safetensors_name(tensor.dtype));
    std::uint64_t elements = 1;
    for (auto extent : tensor.shape) elements *= extent;
    const auto bytes = elements * weights::bits_of(tensor.dtype) / 8;
    if (tensor.offset != end)
      return ckptd::fail(ErrorKind::internal, "tensor {} stands at {} and the one before it ends at {}", tensor.name,
                         tensor.offset, end);
    end += bytes;
    auto shape = CKPTD_TRY(torch_shape_of(tensor.dtype, tensor.shape));
    wire.push_back({std::string(tensor.name), *torch_name, std::move(shape), bytes});
  }
  return wire;
}

}  // namespace

MeetingSession::MeetingSession(std::shared_ptr<Meeting> meeting, Meeting::Member member, std::string device)
    : meeting_(std::move(meeting)), member_(member), device_(std::move(device)) {}

MeetingSession::~MeetingSession() {
  if (!finished_) meeting_->leave(Error{ErrorKind::cancelled, "the sender gave up"});
}

Result<> MeetingSession::arrive(Meeting::Arrival arrival) {
  step_ = arrival.step;
  number_ = arrival.number;
  step_begun_ = Clock::now();
  if (auto arrived = meeting_->arrive(member_, std::move(arrival)); !arrived)
    return std::unexpected(name_culprit(arrived.error()));
  return {};
}

Result<> MeetingSession::offer(const device::Export& memory) {
  memory_ = memory;
  return arrive({.step = Step::offer, .tensors = {}, .memory = {}});
}

Result<> MeetingSession::reload(std::span<const TensorView> tensors, std::uint32_t number) {
  auto wire = wire_tensors(tensors);
  if (!wire) return std::unexpected(name_culprit(wire.error()));
  std::uint64_t bytes = 0;
  for (const auto& tensor : *wire) bytes += tensor.bytes;
  auto memory = memory_of(tensors.empty() ? 0 : tensors.front().offset, bytes);
  if (!memory) return std::unexpected(name_culprit(memory.error()));
  touched_ = true;
  // What all devices have in common is told once.
  if (member_ != 0) wire->clear();
  return arrive({.step = Step::reload, .number = number, .tensors = *std::move(wire), .memory = *std::move(memory)});
}

Result<> MeetingSession::release() { return arrive({.step = Step::release, .tensors = {}, .memory = {}}); }

Result<> MeetingSession::finish() {
  finishing_ = true;
  return arrive({.step = Step::finish, .tensors = {}, .memory = {}});
}

Result<Session::Woken> MeetingSession::wait(std::span<const int> wakers, Deadline deadline) {
  std::vector<pollfd> items{{meeting_->fd(member_), POLLIN, 0}};
  for (int fd : wakers) items.push_back({fd, POLLIN, 0});
  // Each way to be woken leads to one more look before it is returned: an acknowledgement that is here comes first.
  bool woken = false, expired = false;
  for (;;) {
    auto news = meeting_->look(member_);
    if (!news) return std::unexpected(name_culprit(news.error()));
    if (*news) {
      finished_ = finishing_;
      return Woken::acknowledged;
    }
    if (woken) return Woken::by_waker;
    if (expired) return std::unexpected(name_culprit(timed_out()));
    expired = deadline.passed();
    if (::poll(items.data(), items.size(), deadline.poll_timeout_ms()) < 0 && errno != EINTR)
      return std::unexpected(name_culprit(system_error(errno, "wait for the engine's answer")));
    for (std::size_t i = 1; i < items.size(); ++i) woken = woken || items[i].revents != 0;
  }
}

Result<Session::Woken> MeetingSession::wait_again(std::span<const int> wakers, Deadline deadline) {
  auto woken = CKPTD_TRY(wait(wakers, deadline));
  if (woken == Woken::acknowledged) finishing_ = finished_ = false;
  return woken;
}

Error MeetingSession::timed_out() const {
  return {ErrorKind::timed_out,
          fmt::format("not done within {}: {}",
                      show_seconds(std::chrono::duration<double>(Clock::now() - step_begun_).count()),
                      meeting_->waited_for(member_))};
}

Error MeetingSession::name_culprit(const Error& error) const {
  const auto step =
      step_ == Step::reload ? fmt::format("reload {}", number_) : std::string(name_of(step_));
  return error.within(fmt::format("engine {}, device {}, step {}", meeting_->engine(), device_, step))
      .with_fact("engine", meeting_->engine())
      .with_fact("device", device_)
      .with_fact("step", std::string(name_of(step_)));
}

void MeetingSession::fail(const Error& reason) noexcept { meeting_->leave(reason); }

void MeetingSession::discard() noexcept { meeting_->leave(Error{ErrorKind::cancelled, "the update was not begun"}); }

}  // namespace ckptd::ranks::vllm
