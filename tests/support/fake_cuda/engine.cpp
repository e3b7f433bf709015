// Streams, events and the engine that does their work.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "tests/support/fake_cuda/machine.h"

namespace ckptd::fake_cuda {
namespace {

/// How long the library waits where a driver would wait for ever. Nothing legal takes so long.
constexpr std::chrono::seconds kForEver{30};

bool touches(const Item& item, std::uintptr_t address, std::size_t bytes) {
  const auto overlaps = [&](std::uintptr_t other) { return other < address + bytes && address < other + item.bytes; };
  return item.kind == Item::Kind::copy && (overlaps(item.to) || overlaps(item.from));
}

}  // namespace

CUresult Machine::check_stream(const char* call, CUstream stream) {
  const auto at = streams_.find(stream);
  if (at == streams_.end())
    return complain(CUDA_ERROR_INVALID_HANDLE, std::string(call) + ": a stream that is not there, or no more");
  if (at->second->queue->context != current())
    return complain(CUDA_ERROR_INVALID_HANDLE, std::string(call) + ": a stream of another context");
  return CUDA_SUCCESS;
}

CUresult Machine::check_event(const char* call, CUevent event) {
  const auto at = events_.find(event);
  if (at == events_.end())
    return complain(CUDA_ERROR_INVALID_HANDLE, std::string(call) + ": an event that is not there, or no more");
  if (at->second->context != current())
    return complain(CUDA_ERROR_INVALID_HANDLE, std::string(call) + ": an event of another context");
  return CUDA_SUCCESS;
}

CUresult Machine::make_stream(CUstream* stream, unsigned flags) {
  std::lock_guard lock(mutex_);
  if (flags != CU_STREAM_NON_BLOCKING)
    complain(CUDA_SUCCESS, "a stream that waits for the legacy default stream, as whoever else uses the process may");
  auto made = std::make_unique<CUstream_st>();
  made->queue = std::make_shared<Queue>();
  made->queue->context = current();
  queues_.push_back(made->queue);
  *stream = made.get();
  streams_.emplace(made.get(), std::move(made));
  return CUDA_SUCCESS;
}

CUresult Machine::destroy_stream(CUstream stream) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_stream("cuStreamDestroy", stream); code != CUDA_SUCCESS) return code;
  // Legal, and its work goes on: then nobody can tell when its memory is free.
  if (stream->queue->done != stream->queue->queued) complain(CUDA_SUCCESS, "a stream is destroyed that still has work");
  std::erase(queues_, stream->queue);
  stream->queue.reset();
  former_streams_.push_back(std::move(streams_.extract(stream).mapped()));
  return CUDA_SUCCESS;
}

CUresult Machine::query_stream(CUstream stream) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_stream("cuStreamQuery", stream); code != CUDA_SUCCESS) return code;
  return stream->queue->done == stream->queue->queued ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult Machine::make_event(CUevent* event, unsigned flags) {
  std::lock_guard lock(mutex_);
  auto made = std::make_unique<CUevent_st>();
  made->context = current();
  made->flags = flags;
  *event = made.get();
  events_.emplace(made.get(), std::move(made));
  return CUDA_SUCCESS;
}

CUresult Machine::destroy_event(CUevent event) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_event("cuEventDestroy", event); code != CUDA_SUCCESS) return code;
  event->mark.reset();
  former_events_.push_back(std::move(events_.extract(event).mapped()));
  return CUDA_SUCCESS;
}

CUresult Machine::record(CUevent event, CUstream stream) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_stream("cuEventRecord", stream); code != CUDA_SUCCESS) return code;
  if (const auto code = check_event("cuEventRecord", event); code != CUDA_SUCCESS) return code;
  event->mark = std::make_shared<Mark>();
  event->mark->queue = stream->queue;
  Item item;
  item.kind = Item::Kind::mark;
  item.mark = event->mark;
  add(*stream->queue, std::move(item));
  return CUDA_SUCCESS;
}

CUresult Machine::query_event(CUevent event) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_event("cuEventQuery", event); code != CUDA_SUCCESS) return code;
  return !event->mark || event->mark->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult Machine::elapsed(float* milliseconds, CUevent from, CUevent to) {
  std::lock_guard lock(mutex_);
  for (const auto event : {from, to}) {
    if (const auto code = check_event("cuEventElapsedTime", event); code != CUDA_SUCCESS) return code;
    if ((event->flags & CU_EVENT_DISABLE_TIMING) != 0 || !event->mark)
      return complain(CUDA_ERROR_INVALID_HANDLE, "cuEventElapsedTime: an event without a time");
    if (!event->mark->done) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->mark->at - from->mark->at).count();
  return CUDA_SUCCESS;
}

CUresult Machine::wait(CUstream stream, CUevent event) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_stream("cuStreamWaitEvent", stream); code != CUDA_SUCCESS) return code;
  if (!events_.contains(event))
    return complain(CUDA_ERROR_INVALID_HANDLE, "cuStreamWaitEvent: an event that is not there, or no more");
  if (!event->mark) return CUDA_SUCCESS;
  Item item;
  item.kind = Item::Kind::wait;
  item.mark = event->mark;
  add(*stream->queue, std::move(item));
  return CUDA_SUCCESS;
}

CUresult Machine::call_host(CUstream stream, CUhostFn function, void* data) {
  std::lock_guard lock(mutex_);
  if (const auto code = check_stream("cuLaunchHostFunc", stream); code != CUDA_SUCCESS) return code;
  Item item;
  item.kind = Item::Kind::host_function;
  item.function = function;
  item.data = data;
  add(*stream->queue, std::move(item));
  return CUDA_SUCCESS;
}

CUresult Machine::copy(const char* what, std::uintptr_t to, std::uintptr_t from, std::size_t bytes, CUstream stream) {
  std::unique_lock lock(mutex_);
  if (const auto code = check_stream(what, stream); code != CUDA_SUCCESS) return code;
  if (bytes == 0) return CUDA_SUCCESS;
  bool pageable = false;
  for (const auto address : {to, from}) {
    if (starts_in_block(address) && block_at(address, bytes) == nullptr)
      return complain(CUDA_ERROR_INVALID_VALUE, std::string(what) + " out of the bounds of an allocation");
    const auto place = place_of(address, bytes);
    if (place == Place::mixed)
      return complain(CUDA_ERROR_INVALID_VALUE, std::string(what) + " across the end of a registration");
    pageable = pageable || place == Place::pageable;
    if (place == Place::pageable && (address == to || std::strcmp(what, "cuMemcpyHtoDAsync") != 0))
      return complain(CUDA_ERROR_INVALID_VALUE, std::string(what) + " with a pointer that is no device memory");
  }
  const auto queue = stream->queue;
  Item item;
  item.to = to;
  item.from = from;
  item.bytes = bytes;
  add(*queue, std::move(item));
  if (!pageable) return CUDA_SUCCESS;
  // As a driver does with memory that is not page-locked: the caller waits until the work before has been done.
  const auto number = queue->queued;
  if (!progress_.wait_for(lock, kForEver, [&] { return queue->done >= number; }))
    return complain(CUDA_ERROR_UNKNOWN, "a copy of pageable memory waits for ever behind work that does not end");
  return queue->context->dead;
}

CUresult Machine::copy_now(std::uintptr_t to, std::uintptr_t from, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  for (const auto address : {to, from})
    if (starts_in_block(address) && block_at(address, bytes) == nullptr)
      return complain(CUDA_ERROR_INVALID_VALUE, "cuMemcpy out of the bounds of an allocation");
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}

bool Machine::in_use(std::uintptr_t address, std::size_t bytes) const {
  for (const auto& queue : queues_) {
    if (queue->current != nullptr && touches(*queue->current, address, bytes)) return true;
    for (const auto& item : queue->items)
      if (touches(item, address, bytes)) return true;
  }
  return false;
}

void Machine::add(Queue& queue, Item item) {
  item.number = ++queue.queued;
  queue.items.push_back(std::move(item));
  changed_.notify_all();
}

/// A wait for a queue of a dead context is over: whoever asks that context learns the rest.
bool Machine::runnable(const Queue& queue) const {
  if (paused_ || queue.running || queue.items.empty()) return false;
  const auto& first = queue.items.front();
  return first.kind != Item::Kind::wait || first.mark->done || first.mark->queue->context->dead != CUDA_SUCCESS;
}

void Machine::work() {
  std::unique_lock lock(mutex_);
  for (std::uint64_t round = 0;; ++round) {
    std::vector<std::shared_ptr<Queue>> chances;
    for (const auto& queue : queues_) {
      if (round % 64 == 0) queue->speed = 1U << random_() % 5;
      if (runnable(*queue)) chances.insert(chances.end(), queue->speed, queue);
    }
    if (chances.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto queue = chances[random_() % chances.size()];
    Item item = std::move(queue->items.front());
    queue->items.pop_front();
    queue->running = true;
    queue->current = &item;
    if (item.kind == Item::Kind::host_function) {
      queue->current = nullptr;
      host_functions_.emplace_back(queue, std::move(item));
      host_work_.notify_one();
      continue;
    }
    if (item.kind == Item::Kind::copy) run_copy(lock, *queue, item);
    if (item.kind == Item::Kind::mark) {
      item.mark->done = true;
      item.mark->at = Clock::now();
    }
    queue->current = nullptr;
    finish(*queue);
  }
}

void Machine::finish(Queue& queue) {
  queue.running = false;
  if (queue.context->dead == CUDA_SUCCESS) ++queue.done;
  progress_.notify_all();
  changed_.notify_all();
}

void Machine::run_copy(std::unique_lock<std::mutex>& lock, Queue& queue, const Item& item) {
  const auto code = faults_.count("work_copy", queue.context->gpu);
  if (code != CUDA_SUCCESS) return die(queue.context, code);
  for (const auto address : {item.to, item.from})
    if (starts_in_block(address) != (block_at(address, item.bytes) != nullptr) ||
        (address == item.to && block_at(address, item.bytes) == nullptr)) {
      complain(CUDA_SUCCESS, "a copy uses memory that was freed after it was queued");
      return die(queue.context, CUDA_ERROR_ILLEGAL_ADDRESS);
    }
  lock.unlock();
  if (copy_time_.count() > 0) std::this_thread::sleep_for(copy_time_);
  if (bytes_per_second_ > 0)
    std::this_thread::sleep_for(std::chrono::duration<double>(static_cast<double>(item.bytes) /
                                                              static_cast<double>(bytes_per_second_)));
  std::memmove(reinterpret_cast<void*>(item.to), reinterpret_cast<const void*>(item.from), item.bytes);
  lock.lock();
}

/// On a thread of their own, as the driver does it: one that blocks holds up its stream and no other.
void Machine::call_host_functions() {
  std::unique_lock lock(mutex_);
  for (;;) {
    host_work_.wait(lock, [&] { return !host_functions_.empty(); });
    auto [queue, item] = std::move(host_functions_.front());
    host_functions_.pop_front();
    lock.unlock();
    item.function(item.data);
    lock.lock();
    finish(*queue);
  }
}

void Machine::revive() {
  std::unique_lock lock(mutex_);
  progress_.wait_for(lock, kForEver, [&] {
    for (const auto& queue : queues_)
      if (queue->context->dead != CUDA_SUCCESS && queue->running) return false;
    return true;
  });
  const auto dead = [](CUcontext context) { return context->dead != CUDA_SUCCESS; };
  std::erase_if(streams_, [&](const auto& entry) { return dead(entry.second->queue->context); });
  std::erase_if(queues_, [&](const auto& queue) { return dead(queue->context); });
  std::erase_if(events_, [&](const auto& entry) { return dead(entry.second->context); });
  std::erase_if(blocks_, [&](const auto& entry) {
    if (!dead(entry.second.context)) return false;
    ::close(entry.second.memfd);
    return true;
  });
  for (auto& context : contexts_)
    if (dead(context.get())) {
      context->dead = CUDA_SUCCESS;
      context->retained = 0;
      context->peers.clear();
    }
  if (std::ranges::all_of(contexts_, [](const auto& context) { return context->retained == 0; })) registered_.clear();
}

}  // namespace ckptd::fake_cuda
