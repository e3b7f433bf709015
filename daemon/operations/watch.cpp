#include "daemon/operations/watch.h"

#include <utility>

namespace ckptd::operations {

Watch::Watch(std::function<std::chrono::milliseconds()> look)
    : look_(std::move(look)), thread_([this](std::stop_token stop) {
        while (!stop.stop_requested()) {
          const auto pause = look_();
          std::unique_lock lock(mutex_);
          wake_.wait_for(lock, stop, pause, [this] { return nudged_; });
          nudged_ = false;
        }
        ended_ = true;
      }) {}

void Watch::nudge() {
  {
    std::lock_guard lock(mutex_);
    nudged_ = true;
  }
  wake_.notify_one();
}

}  // namespace ckptd::operations
