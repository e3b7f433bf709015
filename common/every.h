// Calls a function again and again on a thread of its own while it lives, and once more at the end.
//
// The destructor waits for a call that is running and not for the interval. The function must not throw. Where no thread can
// be had it is called at the end alone, by whoever destroys it: for what may be told late, and not for what must be done.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

namespace ckptd {

class Every {
 public:
  Every(std::chrono::milliseconds interval, std::function<void()> call) : call_(std::move(call)) {
    try {
      thread_ = std::jthread([this, interval](std::stop_token stop) {
        std::mutex mutex;
        std::unique_lock lock(mutex);
        std::condition_variable_any sleep;
        while (!stop.stop_requested()) {
          call_();
          sleep.wait_for(lock, stop, interval, [] { return false; });
        }
      });
    } catch (const std::system_error&) {  // as the header says
    }
  }
  Every(const Every&) = delete;  // its thread points here
  Every& operator=(const Every&) = delete;
  ~Every() {
    thread_ = {};  // asks it to end and waits
    call_();
  }

 private:
  const std::function<void()> call_;
  std::jthread thread_;
};

}  // namespace ckptd
