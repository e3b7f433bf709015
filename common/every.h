// Calls a function again and again on a thread of its own while it lives, and once more at the end.
//
// The destructor waits for a call that is running and not for the interval. The function must not throw.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>

namespace ckptd {

class Every {
 public:
  Every(std::chrono::milliseconds interval, std::function<void()> call)
      : thread_([interval, call = std::move(call)](std::stop_token stop) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any sleep;
          while (!stop.stop_requested()) {
            call();
            sleep.wait_for(lock, stop, interval, [] { return false; });
          }
          call();
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace ckptd
