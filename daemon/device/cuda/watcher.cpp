#include "daemon/device/cuda/watcher.h"

#include <chrono>
#include <system_error>
#include <utility>

#include "daemon/device/cuda/stream.h"

namespace ckptd::device::cuda {
namespace {

constexpr std::chrono::microseconds kPeriod{100};
constexpr std::size_t kSpares = 32;  ///< two lanes that queue sixteen buckets each; more are made when they are needed

}  // namespace

Result<std::shared_ptr<Watcher>> Watcher::start(std::shared_ptr<Context> context) {
  std::vector<NativeEvent> spare;
  for (std::size_t i = 0; i < kSpares; ++i)
    spare.push_back(CKPTD_TRY(NativeEvent::create(context, CU_EVENT_DISABLE_TIMING)));
  try {
    return std::make_shared<Watcher>(std::move(context), std::move(spare));
  } catch (const std::system_error& error) {
    return std::unexpected(system_error(error.code().value(), "start the thread that watches a GPU"));
  }
}

Watcher::Watcher(std::shared_ptr<Context> context, std::vector<NativeEvent> spare)
    : context_(std::move(context)), spare_(std::move(spare)), thread_([this] { work(); }) {}

Watcher::~Watcher() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Result<> Watcher::watch(const StreamState& stream, const Waker& waker) {
  auto done = take_spare();
  Result<> recorded;
  if (done)
    recorded = context_->call("record an event", &Functions::event_record, done->get(), stream.native());
  else
    recorded = std::unexpected(done.error());
  if (!recorded) {
    waker.wake();  // what was queued has failed, and who sleeps must learn of it by a call that says so
    if (context_->fenced()) return {};
    return recorded;
  }
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back({std::move(*done), &stream, &waker});
  }
  changed_.notify_one();
  return {};
}

Result<NativeEvent> Watcher::take_spare() {
  {
    std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      auto event = std::move(spare_.back());
      spare_.pop_back();
      return event;
    }
  }
  return NativeEvent::create(context_, CU_EVENT_DISABLE_TIMING);
}

void Watcher::forget(const StreamState& stream) {
  std::lock_guard lock(mutex_);
  std::erase_if(waiting_, [&](Entry& entry) {
    if (entry.stream != &stream) return false;
    entry.waker->wake();
    spare_.push_back(std::move(entry.done));
    return true;
  });
}

void Watcher::work() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
      continue;
    }
    look();
    if (!waiting_.empty()) changed_.wait_for(lock, kPeriod, [&] { return ending_; });
  }
}

/// Wakers are woken under the lock: forget() promises that none is touched afterwards, and wake() never blocks.
void Watcher::look() {
  std::erase_if(waiting_, [&](Entry& entry) {
    if (!entry.stream->is_done_or_failed(entry.done)) return false;
    entry.waker->wake();
    spare_.push_back(std::move(entry.done));
    return true;
  });
}

}  // namespace ckptd::device::cuda
