#include "daemon/ranks/vllm/meeting.h"

#include <algorithm>
#include <utility>

#include "common/units.h"

namespace ckptd::ranks::vllm {
namespace {

std::string show(const Meeting::Arrival& arrival) {
  return arrival.step == Step::reload ? fmt::format("reload {}", arrival.number) : std::string(name_of(arrival.step));
}

}  // namespace

Result<Meeting::Member> Meeting::join(std::string device) {
  auto waker = CKPTD_TRY(Waker::create());
  std::lock_guard lock(mutex_);
  seats_.push_back({.device = std::move(device), .waker = std::move(waker), .arrival = {}});
  return seats_.size() - 1;
}

std::vector<std::string> Meeting::devices() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> devices;
  for (const auto& seat : seats_) devices.push_back(seat.device);
  return devices;
}

Result<> Meeting::arrive(Member member, Arrival arrival) {
  std::lock_guard lock(mutex_);
  if (failure_) return std::unexpected(*failure_);
  auto& seat = seats_[member];
  seat.place = show(arrival);
  seat.arrival = std::move(arrival);
  changed_.notify_all();
  return {};
}

int Meeting::fd(Member member) const {
  std::lock_guard lock(mutex_);
  return seats_[member].waker.fd();
}

Result<bool> Meeting::look(Member member) {
  std::lock_guard lock(mutex_);
  auto& seat = seats_[member];
  seat.waker.drain();
  if (seat.acknowledged > 0) {
    if (--seat.acknowledged > 0) seat.waker.wake();
    return true;
  }
  if (failure_) return std::unexpected(*failure_);
  return false;
}

bool Meeting::is_kept_back(std::uint64_t count) const {
  std::lock_guard lock(mutex_);
  return failure_ && count > handed_out_;
}

bool Meeting::is_out() const {
  std::lock_guard lock(mutex_);
  return out_;
}

std::string Meeting::waited_for(Member member) const {
  std::lock_guard lock(mutex_);
  if (!call_.empty())
    return fmt::format("the engine has not answered {} for {}: it may still be busy (raise the time-out), or one of its "
                       "workers hangs; look at its log",
                       call_, show_seconds(std::chrono::duration<double>(Clock::now() - call_begun_).count()));
  std::string late;
  for (Member other = 0; other < seats_.size(); ++other)
    if (other != member && !seats_[other].arrival)
      late += fmt::format("{}device {} ({})", late.empty() ? "" : ", ", seats_[other].device, seats_[other].place);
  if (late.empty()) return "the engine was not called";
  return fmt::format("one call serves all devices, and this one waited for {}", late);
}

void Meeting::leave(const Error& reason) noexcept {
  try {
    std::lock_guard lock(mutex_);
    if (finished_ || failure_) return;
    failure_ = reason;
    wake_all();
  } catch (const std::exception&) {  // out of memory: the caller ends by its own deadline
  }
  ended_.request_stop();
  changed_.notify_all();
}

bool Meeting::all_arrived() const {
  return !seats_.empty() &&
         std::ranges::all_of(seats_, [](const Seat& seat) { return seat.arrival.has_value(); });
}

Result<Meeting::Gathered> Meeting::gather(Deadline deadline, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, stop, deadline.at(), [&] { return failure_ || all_arrived(); });
  if (failure_) return std::unexpected(*failure_);
  if (!all_arrived()) {
    if (stop.stop_requested()) return fail(ErrorKind::cancelled, "the update of engine {} was given up", engine_);
    return fail(ErrorKind::timed_out, "the devices of engine {} did not come to the same step in time", engine_);
  }
  Gathered gathered;
  gathered.step = seats_.front().arrival->step;
  gathered.number = seats_.front().arrival->number;
  for (auto& seat : seats_) {
    if (seat.arrival->step != gathered.step || seat.arrival->number != gathered.number)
      return fail(ErrorKind::internal, "device {} came to {} while device {} came to {}", seat.device,
                  show(*seat.arrival), seats_.front().device, show(*seats_.front().arrival));
    if (!seat.arrival->tensors.empty()) gathered.tensors = std::move(seat.arrival->tensors);
    gathered.memories.push_back(std::move(seat.arrival->memory));
  }
  return gathered;
}

Result<> Meeting::hand_out() {
  std::lock_guard lock(mutex_);
  if (failure_) return std::unexpected(*failure_);
  ++handed_out_;
  out_ = true;
  return {};
}

void Meeting::calling(std::string call) {
  std::lock_guard lock(mutex_);
  call_ = std::move(call);
  call_begun_ = Clock::now();
}

void Meeting::acknowledge() {
  std::lock_guard lock(mutex_);
  call_.clear();
  out_ = false;
  for (auto& seat : seats_) {
    seat.arrival.reset();
    ++seat.acknowledged;
  }
  wake_all();
}

void Meeting::finished() {
  std::lock_guard lock(mutex_);
  finished_ = true;
}

void Meeting::end(const Error& reason) {
  std::lock_guard lock(mutex_);
  out_ = false;
  if (!failure_) failure_ = reason;
  wake_all();
}

void Meeting::handles_were_not_opened() {
  std::lock_guard lock(mutex_);
  unopened_ = true;
}

bool Meeting::handles_are_unopened() const {
  std::lock_guard lock(mutex_);
  return unopened_;
}

void Meeting::wake_all() const {
  for (const auto& seat : seats_) seat.waker.wake();
}

}  // namespace ckptd::ranks::vllm
