#include "daemon/device/cuda/stream.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace ckptd::device::cuda {
namespace {

using namespace std::chrono_literals;

constexpr auto kShortestSleep = 20us, kLongestSleep = 200us;
constexpr auto kPatienceOfDestruction = 30s;
constexpr auto kPatienceOfReference = 1s;
constexpr auto kWorstReference = 1ms;  ///< a stretch of time in which the reference lies: half of it is the error
constexpr int kReferences = 4;         ///< tried, the best is kept: the first pays for first uses

}  // namespace

Result<std::shared_ptr<StreamState>> StreamState::create(std::shared_ptr<Context> context) {
  std::shared_ptr<StreamState> state(new StreamState(std::move(context)));
  CKPTD_TRY(state->context_->call("create a stream", &Functions::stream_create, &state->native_,
                                  static_cast<unsigned>(CU_STREAM_NON_BLOCKING)));
  bool taken = true;  // a device that is busy tells no times; all else works
  for (int i = 0; i < kReferences && taken; ++i) taken = CKPTD_TRY(state->take_reference());
  return state;
}

StreamState::~StreamState() {
  reference_.reset();
  if (native_ != nullptr && !context_->fenced()) context_->make(&Functions::stream_destroy, native_);
}

Result<bool> StreamState::take_reference() {
  auto event = CKPTD_TRY(NativeEvent::create(context_, CU_EVENT_DEFAULT));
  const auto before = Clock::now();
  CKPTD_TRY(context_->call("record an event", &Functions::event_record, event.get(), native_));
  const auto give_up = before + kPatienceOfReference;
  for (;;) {
    const auto code = context_->make(&Functions::event_query, event.get());
    const auto after = Clock::now();
    if (code == CUDA_SUCCESS) {
      const auto error = (after - before) / 2;
      if (after - before <= kWorstReference && (!reference_ || error < reference_->error))
        reference_ = Reference{std::move(event), before + error, error};
      return true;
    }
    if (code != CUDA_ERROR_NOT_READY) CKPTD_TRY(context_->check(code, "ask for an event"));
    if (after > give_up) return false;
  }
}

void StreamState::depend_on(const StreamState& other) {
  if (&other == this || (other.context_ == context_ && !other.depends_.load(std::memory_order_acquire))) return;
  std::scoped_lock lock(mutex_, other.mutex_);
  const auto need = [this](const std::shared_ptr<Context>& each) {
    if (each != context_ && std::ranges::find(needed_, each) == needed_.end()) needed_.push_back(each);
  };
  need(other.context_);
  for (const auto& each : other.needed_) need(each);
  depends_.store(!needed_.empty(), std::memory_order_release);
}

Result<> StreamState::usable() const {
  CKPTD_TRY(context_->usable());
  if (!depends_.load(std::memory_order_acquire)) return {};
  std::lock_guard lock(mutex_);
  for (const auto& each : needed_)
    if (auto needed = each->usable(); !needed)
      return std::unexpected(
          needed.error().within(fmt::format("{} waited for work of another GPU", context_->name())));
  return {};
}

bool StreamState::lost() const {
  if (context_->fenced()) return true;
  if (!depends_.load(std::memory_order_acquire)) return false;
  std::lock_guard lock(mutex_);
  return std::ranges::any_of(needed_, [](const auto& each) { return each->fenced(); });
}

bool StreamState::is_done_or_failed(const NativeEvent& event) const {
  if (lost()) return true;
  const auto code = context_->make(&Functions::event_query, event.get());
  return code != CUDA_ERROR_NOT_READY && (context_->check(code, "carry out queued work"), true);
}

template <class Ask, class Usable>
Result<> StreamState::ask_until(Ask ask, Usable usable, Deadline deadline) const {
  for (auto pause = kShortestSleep;; pause = std::min(pause * 2, kLongestSleep)) {
    CKPTD_TRY(usable());
    const CUresult code = ask();
    if (code == CUDA_SUCCESS) return usable();
    if (code != CUDA_ERROR_NOT_READY) return context_->check(code, "carry out queued work");
    const auto left = deadline.at() - Clock::now();
    if (left <= 0s)
      return fail(ErrorKind::timed_out, "{}: queued copies were not done by the deadline", context_->name());
    std::this_thread::sleep_for(std::min<Clock::duration>(pause, left));
  }
}

Result<> StreamState::wait(const NativeEvent& event, Deadline deadline) const {
  return ask_until([&] { return context_->make(&Functions::event_query, event.get()); }, [this] { return usable(); },
                   deadline);
}

Result<> StreamState::wait_for_all(Deadline deadline) const {
  return ask_until([this] { return context_->make(&Functions::stream_query, native_); }, [this] { return usable(); },
                   deadline);
}

Result<> StreamState::wait_for_own_work(Deadline deadline) const {
  return ask_until([this] { return context_->make(&Functions::stream_query, native_); },
                   [this] { return context_->usable(); }, deadline);
}

std::optional<Clock::time_point> StreamState::time_of(const NativeEvent& event) const {
  if (!reference_ || context_->fenced()) return {};
  float milliseconds = 0;
  const auto code = context_->make(&Functions::event_elapsed_time, &milliseconds, reference_->event.get(), event.get());
  if (code != CUDA_SUCCESS) return {};
  return reference_->at + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(milliseconds));
}

Result<std::unique_ptr<Event>> CudaEvent::create(std::shared_ptr<Context> context) {
  std::unique_ptr<CudaEvent> event(new CudaEvent);
  CKPTD_TRY(event->native_in(context));
  return event;
}

Result<const NativeEvent*> CudaEvent::native_in(const std::shared_ptr<Context>& context) {
  for (const auto& native : natives_)
    if (&native->context() == context.get()) return native.get();
  auto native = CKPTD_TRY(NativeEvent::create(context, CU_EVENT_DEFAULT));
  return natives_.emplace_back(std::make_unique<NativeEvent>(std::move(native))).get();
}

bool CudaEvent::reached() const { return !recorded_ || state_->is_done_or_failed(*recorded_); }

Result<> CudaEvent::wait(Deadline deadline) {
  if (!recorded_) return {};
  return state_->wait(*recorded_, deadline);
}

std::optional<Clock::time_point> CudaEvent::reached_at() const {
  if (!recorded_ || !reached() || !state_->usable()) return {};
  return state_->time_of(*recorded_);
}

Result<std::unique_ptr<Stream>> CudaStream::create(std::shared_ptr<Context> context, std::shared_ptr<Watcher> watcher,
                                                   std::shared_ptr<Registrations> registrations) {
  auto state = CKPTD_TRY(StreamState::create(std::move(context)));
  return std::make_unique<CudaStream>(std::move(state), std::move(watcher), std::move(registrations));
}

CudaStream::CudaStream(std::shared_ptr<StreamState> state, std::shared_ptr<Watcher> watcher,
                       std::shared_ptr<Registrations> registrations)
    : state_(std::move(state)), watcher_(std::move(watcher)), registrations_(std::move(registrations)) {}

CudaStream::~CudaStream() {
  if (auto done = state_->wait_for_own_work(Deadline::in(kPatienceOfDestruction)); !done && !context().fenced())
    context().fence({ErrorKind::unavailable,
                     fmt::format("{} has not done within {} s what was queued on it, and is not used any more until ckptd is "
                                 "restarted: look for messages of the driver in the kernel log. {}",
                                 context().name(), std::chrono::seconds(kPatienceOfDestruction).count(),
                                 done.error().sentence)});
  watcher_->forget(*state_);
}

Result<> CudaStream::copy_from_host(Range to, const std::byte* from) {
  while (to.bytes != 0) {
    const auto bytes = registrations_->piece_at(from, to.bytes);
    CKPTD_TRY(context().call("copy from host memory", &Functions::memcpy_host_to_device,
                             static_cast<CUdeviceptr>(to.address), static_cast<const void*>(from),
                             static_cast<std::size_t>(bytes), state_->native()));
    to = to.part(bytes, to.bytes - bytes);
    from += bytes;
  }
  return {};
}

Result<> CudaStream::copy(Range to, Range from) {
  if (to.bytes != from.bytes)
    return fail(ErrorKind::invalid_argument, "{}: a copy from {} bytes to {} bytes; both must be equal", context().name(),
                from.bytes, to.bytes);
  if (to.bytes == 0) return {};
  return context().call("copy between devices", &Functions::memcpy_unified, static_cast<CUdeviceptr>(to.address),
                        static_cast<CUdeviceptr>(from.address), static_cast<std::size_t>(to.bytes), state_->native());
}

Result<> CudaStream::record(Event& event) {
  auto* ours = dynamic_cast<CudaEvent*>(&event);
  if (ours == nullptr)
    return fail(ErrorKind::invalid_argument, "{}: the event to record is not a CUDA device's", context().name());
  const auto native = CKPTD_TRY(ours->native_in(state_->context()));
  auto recorded = context().call("record an event", &Functions::event_record, native->get(), state_->native());
  if (!recorded && !context().fenced()) return recorded;
  ours->recorded_ = native;  // of a fenced device too: whoever waits for it is to get the error
  ours->state_ = state_;
  return recorded;
}

Result<> CudaStream::wait(const Event& event) {
  const auto* ours = dynamic_cast<const CudaEvent*>(&event);
  if (ours == nullptr)
    return fail(ErrorKind::invalid_argument, "{}: the event to wait for is not a CUDA device's", context().name());
  if (!ours->recorded_ || ours->state_ == state_) return {};
  CKPTD_TRY(ours->state_->usable());
  state_->depend_on(*ours->state_);
  return context().call("wait for an event", &Functions::stream_wait_event, state_->native(), ours->recorded_->get(), 0U);
}

Result<> CudaStream::wake_when_done(const Waker& waker) { return watcher_->watch(*state_, waker); }

Result<> CudaStream::synchronize(Deadline deadline) { return state_->wait_for_all(deadline); }

}  // namespace ckptd::device::cuda
