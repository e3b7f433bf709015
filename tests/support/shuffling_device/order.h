// The queues of a Shuffler and the thread that empties them. Internal to tests/support/shuffling_device.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/shuffling_device/shuffling_device.h"

namespace ckptd::tests {

struct Queue;

/// A place in a queue, as an event records it.
struct Place {
  std::shared_ptr<Queue> queue;  // null: always reached
  std::uint64_t number = 0;
};

struct Item {
  std::function<Result<>()> run;  // empty for a wait
  Place after;
  bool is_copy = false;  // left out once the queue failed
  bool is_wake = false;  // somebody sleeps until this is done
};

/// The work of one stream. Everything is guarded by the Order's mutex.
struct Queue {
  std::deque<Item> items;
  std::uint64_t queued = 0, done = 0;
  std::vector<Clock::time_point> done_at;  // of each item, in their order
  std::uint64_t demanded = 0;  // somebody waits for the items up to here
  bool running = false;
  bool eager = false;  // whether it moves although nobody waits
  unsigned speed = 1;
  std::optional<Error> error;
  std::uint64_t failed_at = 0;
};

class Order {
 public:
  explicit Order(std::uint64_t seed);
  ~Order();

  std::shared_ptr<Queue> add_queue();
  /// Waits for all work of the queue, then forgets it.
  void remove_queue(const std::shared_ptr<Queue>& queue);

  void add(const std::shared_ptr<Queue>& queue, Item item);
  Place end_of(const std::shared_ptr<Queue>& queue) const;
  bool reached(const Place& place) const;
  std::optional<Clock::time_point> reached_at(const Place& place) const;
  Result<> wait(const Place& place, Deadline deadline);

  void fail_nth(Call call, unsigned n, std::string device);
  void fail_nothing();
  unsigned calls(Call call) const;
  /// Counts the call; the injected error when it is the one to fail.
  Result<> count(Call call, const std::string& device);

  void pause(bool paused);

 private:
  struct Fault {
    unsigned left = 0;
    std::string device;
  };
  static constexpr std::size_t kCalls = static_cast<std::size_t>(Call::work_copy) + 1;

  void work();
  std::shared_ptr<Queue> choose();
  void run_first(std::unique_lock<std::mutex>& lock, Queue& queue);
  void draw_moods();
  void demand(Queue& queue, std::uint64_t number);
  unsigned draw(unsigned below);

  mutable std::mutex mutex_;
  std::condition_variable changed_;   // for the worker: there is something to do
  std::condition_variable progress_;  // for waiters
  std::mt19937_64 random_;
  std::vector<std::shared_ptr<Queue>> queues_;
  bool paused_ = false, ending_ = false;

  mutable std::mutex faults_mutex_;
  std::array<Fault, kCalls> faults_;
  std::array<unsigned, kCalls> calls_{};

  std::thread worker_;  // last: it uses everything above
};

}  // namespace ckptd::tests
