#include "daemon/operations/rolling.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "daemon/fleet/policy.h"

namespace ckptd::operations {

std::vector<std::size_t> roll(const std::vector<bool>& serves, std::optional<std::uint64_t> max_unavailable,
                              const std::function<bool(std::size_t)>& update,
                              const std::function<bool(std::size_t)>& serves_after, std::stop_token stop) {
  using Step = fleet::Rolling::Step;
  std::vector<fleet::Rolling> engines;
  for (const auto each : serves) engines.push_back({Step::pending, each});
  const auto bound = max_unavailable.value_or(fleet::default_max_unavailable(engines));
  std::mutex mutex;
  std::condition_variable ended;
  std::vector<std::jthread> threads;  // ends first: the threads use the above
  std::unique_lock lock(mutex);
  for (;;) {
    const auto next = stop.stop_requested() ? std::vector<std::size_t>{} : fleet::may_begin(engines, bound);
    for (const auto i : next) {
      engines[i].step = Step::running;
      const auto run = [&, i] {
        const bool succeeded = update(i);
        const bool serves_now = succeeded || serves_after(i);
        std::lock_guard done(mutex);
        engines[i] = {succeeded ? Step::done : Step::failed, serves_now};
        ended.notify_one();
      };
      try {
        threads.emplace_back(run);
      } catch (const std::system_error&) {  // no thread is to be had: then here, and the next ones later
        lock.unlock();
        run();
        lock.lock();
      }
    }
    const auto running = [&] { return std::ranges::count(engines, Step::running, &fleet::Rolling::step); };
    const auto before = running();
    if (next.empty() && before == 0) break;
    if (before > 0) ended.wait(lock, [&] { return running() < before; });
  }
  std::vector<std::size_t> not_begun;
  for (std::size_t i = 0; i < engines.size(); ++i)
    if (engines[i].step == Step::pending) not_begun.push_back(i);
  return not_begun;
}

}  // namespace ckptd::operations
