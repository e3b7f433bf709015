#include "daemon/device/host/host_stream.h"

#include <cstring>
#include <system_error>
#include <utility>

#include "daemon/device/host/host_memory.h"

namespace ckptd::device::host {
namespace {

void* pointer(Range range) { return reinterpret_cast<void*>(range.address); }

Result<> check_mapped(const std::string& stream, const char* role, Range range) {
  if (is_host_memory(range)) return {};
  return fail(ErrorKind::internal, "{}: the {} of a copy, {} bytes at {:#x}, is no memory of a host device", stream,
              role, range.bytes, range.address);
}

}  // namespace

void Timeline::finish_item(Result<> outcome) {
  {
    std::lock_guard lock(mutex_);
    ++done_;
    if (!outcome && !error_) {
      error_ = std::move(outcome).error();
      failed_at_ = done_;
    }
  }
  progressed_.notify_all();
}

bool Timeline::failed() const {
  std::lock_guard lock(mutex_);
  return error_.has_value();
}

bool Timeline::reached(std::uint64_t place) const {
  std::lock_guard lock(mutex_);
  return done_ >= place;
}

Result<> Timeline::outcome_up_to(std::uint64_t place) const {
  if (error_ && failed_at_ <= place) return std::unexpected(*error_);
  return {};
}

Result<> Timeline::wait(std::uint64_t place, Deadline deadline) const {
  std::unique_lock lock(mutex_);
  if (!progressed_.wait_until(lock, deadline.at(), [&] { return done_ >= place; }))
    return fail(ErrorKind::timed_out, "{}: {} of {} queued copies and waits were done by the deadline", name_, done_,
                place);
  return outcome_up_to(place);
}

Result<> Timeline::wait(std::uint64_t place) const {
  std::unique_lock lock(mutex_);
  progressed_.wait(lock, [&] { return done_ >= place; });
  return outcome_up_to(place);
}

bool HostEvent::reached() const { return !timeline_ || timeline_->reached(place_); }

Result<> HostEvent::wait(Deadline deadline) {
  if (!timeline_) return {};
  return timeline_->wait(place_, deadline);
}

std::optional<Clock::time_point> HostEvent::reached_at() const {
  if (!timeline_ || !timeline_->reached(place_) || time_->mark.load(std::memory_order_relaxed) != mark_) return {};
  return Clock::time_point(Clock::duration(time_->at.load(std::memory_order_relaxed)));
}

Result<std::unique_ptr<Stream>> HostStream::create(std::string name) {
  try {
    return std::make_unique<HostStream>(std::move(name));
  } catch (const std::system_error& error) {
    return std::unexpected(system_error(error.code().value(), "start the thread of a host stream"));
  }
}

HostStream::HostStream(std::string name)
    : name_(std::move(name)), timeline_(std::make_shared<Timeline>(name_)), worker_([this] { work(); }) {}

HostStream::~HostStream() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  arrived_.notify_one();
  worker_.join();
}

Result<> HostStream::copy_from_host(Range to, const std::byte* from) {
  if (to.bytes != 0) queue(HostCopy{to, from});
  return {};
}

Result<> HostStream::copy(Range to, Range from) {
  if (to.bytes != from.bytes)
    return fail(ErrorKind::invalid_argument, "{}: a copy from {} bytes to {} bytes; both must be equal", name_,
                from.bytes, to.bytes);
  if (to.bytes != 0) queue(DeviceCopy{to, from});
  return {};
}

Result<> HostStream::record(Event& event) {
  auto* ours = dynamic_cast<HostEvent*>(&event);
  if (ours == nullptr)
    return fail(ErrorKind::invalid_argument, "{}: the event to record is not a host device's", name_);
  queue(Mark{ours->time_, ++ours->mark_});
  ours->timeline_ = timeline_;
  ours->place_ = queued_;
  return {};
}

Result<> HostStream::wait(const Event& event) {
  const auto* ours = dynamic_cast<const HostEvent*>(&event);
  if (ours == nullptr)
    return fail(ErrorKind::invalid_argument, "{}: the event to wait for is not a host device's", name_);
  if (ours->timeline_ && ours->timeline_ != timeline_) queue(WaitFor{ours->timeline_, ours->place_});
  return {};
}

Result<> HostStream::wake_when_done(const Waker& waker) {
  queue(Wake{&waker});
  return {};
}

Result<> HostStream::synchronize(Deadline deadline) { return timeline_->wait(queued_, deadline); }

void HostStream::queue(Item item) {
  {
    std::lock_guard lock(mutex_);
    incoming_.push_back(std::move(item));
  }
  ++queued_;
  arrived_.notify_one();
}

// The worker takes all waiting items at once and swaps its emptied vector back: both keep their capacity, so that a
// steady state allocates nothing. It takes the queue's mutex only then, because each time it does, what it has done so
// far is ordered before the next call of the queuing thread, and ThreadSanitizer no longer sees a wait that is missing.
void HostStream::work() {
  std::vector<Item> items;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [&] { return ending_ || !incoming_.empty(); });
      if (incoming_.empty()) return;
      items.swap(incoming_);
    }
    for (const Item& item : items) timeline_->finish_item(carry_out(item));
    items.clear();
  }
}

// After an error only copies are left out, because nothing may be built on bytes that never arrived. Waits still hold,
// since who waits for readers frees the memory next; wakers still wake, since who sleeps must learn of the error. Marks
// are cheap.
Result<> HostStream::carry_out(const Item& item) const {
  if (const auto* wake = std::get_if<Wake>(&item)) {
    wake->waker->wake();
    return {};
  }
  if (const auto* mark = std::get_if<Mark>(&item)) {
    mark->time->at.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
    mark->time->mark.store(mark->number, std::memory_order_relaxed);
    return {};
  }
  if (const auto* wait = std::get_if<WaitFor>(&item)) return wait->timeline->wait(wait->place);
  if (timeline_->failed()) return {};
  if (const auto* copy = std::get_if<HostCopy>(&item)) {
    CKPTD_TRY(check_mapped(name_, "target", copy->to));
    std::memcpy(pointer(copy->to), copy->from, copy->to.bytes);
    return {};
  }
  const auto& copy = std::get<DeviceCopy>(item);
  CKPTD_TRY(check_mapped(name_, "target", copy.to));
  CKPTD_TRY(check_mapped(name_, "source", copy.from));
  std::memmove(pointer(copy.to), pointer(copy.from), copy.to.bytes);
  return {};
}

}  // namespace ckptd::device::host
