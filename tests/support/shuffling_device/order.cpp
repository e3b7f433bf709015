#include "tests/support/shuffling_device/order.h"

#include <algorithm>
#include <chrono>

namespace ckptd::tests {
namespace {

bool is_reached(const Place& place) { return !place.queue || place.queue->done >= place.number; }

std::optional<Error> error_at(const Place& place) {
  if (place.queue && place.queue->error && place.queue->failed_at <= place.number) return place.queue->error;
  return {};
}

bool can_move(const Queue& queue) {
  return !queue.items.empty() && !queue.running && is_reached(queue.items.front().after);
}

}  // namespace

Order::Order(std::uint64_t seed) : random_(seed), worker_([this] { work(); }) {}

Order::~Order() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

std::shared_ptr<Queue> Order::add_queue() {
  auto queue = std::make_shared<Queue>();
  std::lock_guard lock(mutex_);
  queues_.push_back(queue);
  draw_moods();
  return queue;
}

void Order::remove_queue(const std::shared_ptr<Queue>& queue) {
  std::unique_lock lock(mutex_);
  demand(*queue, queue->queued);
  changed_.notify_all();
  progress_.wait(lock, [&] { return queue->done == queue->queued; });
  std::erase(queues_, queue);
}

void Order::add(const std::shared_ptr<Queue>& queue, Item item) {
  std::lock_guard lock(mutex_);
  queue->items.push_back(std::move(item));
  ++queue->queued;
  changed_.notify_all();
}

Place Order::end_of(const std::shared_ptr<Queue>& queue) const {
  std::lock_guard lock(mutex_);
  return {queue, queue->queued};
}

bool Order::reached(const Place& place) const {
  std::lock_guard lock(mutex_);
  return is_reached(place);
}

std::optional<Clock::time_point> Order::reached_at(const Place& place) const {
  std::lock_guard lock(mutex_);
  if (!place.queue || place.number == 0 || !is_reached(place)) return {};
  return place.queue->done_at[place.number - 1];
}

Result<> Order::wait(const Place& place, Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (place.queue) demand(*place.queue, place.number);
  changed_.notify_all();
  if (!progress_.wait_until(lock, deadline.at(), [&] { return is_reached(place); }))
    return fail(ErrorKind::timed_out, "{} of {} queued items were done by the deadline", place.queue->done,
                place.number);
  if (auto error = error_at(place)) return std::unexpected(*error);
  return {};
}

void Order::fail_nth(Call call, unsigned n, std::string device) {
  std::lock_guard lock(faults_mutex_);
  faults_[static_cast<std::size_t>(call)] = {n, std::move(device)};
}

void Order::fail_nothing() {
  std::lock_guard lock(faults_mutex_);
  faults_.fill({});
}

unsigned Order::calls(Call call) const {
  std::lock_guard lock(faults_mutex_);
  return calls_[static_cast<std::size_t>(call)];
}

Result<> Order::count(Call call, const std::string& device) {
  std::lock_guard lock(faults_mutex_);
  const auto index = static_cast<std::size_t>(call);
  ++calls_[index];
  Fault& fault = faults_[index];
  if (fault.left == 0 || (!fault.device.empty() && fault.device != device)) return {};
  if (--fault.left != 0) return {};
  return fail(ErrorKind::io, "{}: injected failure of call {} of kind {}", device, calls_[index], index);
}

void Order::pause(bool paused) {
  std::lock_guard lock(mutex_);
  paused_ = paused;
  changed_.notify_all();
}

void Order::work() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    const bool idle = paused_ || std::ranges::all_of(queues_, [](const auto& queue) { return queue->items.empty(); });
    if (idle) {
      changed_.wait(lock);
      continue;
    }
    if (auto queue = choose()) {
      run_first(lock, *queue);
      if (draw(8) == 0) draw_moods();
      continue;
    }
    const auto nap = std::chrono::microseconds(50 + draw(500));
    if (changed_.wait_for(lock, nap) == std::cv_status::timeout) draw_moods();
  }
}

/// Any queue that may move and either must, because somebody waits, or feels like it; faster ones more often.
std::shared_ptr<Queue> Order::choose() {
  unsigned total = 0;
  const auto weight = [](const Queue& queue) {
    return can_move(queue) && (queue.eager || queue.demanded > queue.done) ? queue.speed : 0U;
  };
  for (const auto& queue : queues_) total += weight(*queue);
  if (total == 0) return nullptr;
  unsigned ticket = draw(total);
  for (const auto& queue : queues_) {
    const unsigned share = weight(*queue);
    if (ticket < share) return queue;
    ticket -= share;
  }
  return nullptr;
}

/// Runs without the mutex, so that callers' deadlines hold while an item takes long.
void Order::run_first(std::unique_lock<std::mutex>& lock, Queue& queue) {
  Item item = std::move(queue.items.front());
  queue.items.pop_front();
  queue.running = true;
  Result<> outcome;
  if (auto error = error_at(item.after)) outcome = std::unexpected(*error);
  if (item.run && !(item.is_copy && queue.error)) {
    lock.unlock();
    outcome = item.run();
    lock.lock();
  }
  queue.running = false;
  ++queue.done;
  queue.done_at.push_back(Clock::now());
  if (!outcome && !queue.error) {
    queue.error = std::move(outcome).error();
    queue.failed_at = queue.done;
  }
  progress_.notify_all();
}

/// From time to time each queue changes its speed and its mood, and a sleeper behind a waker may be noticed.
void Order::draw_moods() {
  for (const auto& queue : queues_) {
    queue->eager = draw(4) == 0;
    queue->speed = 1U << draw(6);
    for (std::size_t i = 0; i < queue->items.size(); ++i)
      if (queue->items[i].is_wake && draw(2) == 0) demand(*queue, queue->done + queue->running + i + 1);
  }
}

void Order::demand(Queue& queue, std::uint64_t number) {
  if (number <= queue.demanded) return;
  const std::uint64_t first = queue.queued - queue.items.size();
  const std::uint64_t before = std::max(queue.demanded, first);
  queue.demanded = number;
  for (std::uint64_t i = before; i < number; ++i) {
    const Place& after = queue.items[i - first].after;
    if (after.queue) demand(*after.queue, after.number);
  }
}

unsigned Order::draw(unsigned below) { return static_cast<unsigned>(random_() % below); }

}  // namespace ckptd::tests
