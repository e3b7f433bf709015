#include "daemon/pipeline/receipts.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace ckptd::pipeline {
namespace {

constexpr std::chrono::milliseconds kFirstLook{1}, kLastLook{32};

void note(LaneReport& lane, LaneReport::Receipt receipt, Clock::time_point begin) {
  const auto end = Clock::now();
  lane.receipt = receipt;
  lane.receipt_seconds = std::chrono::duration<double>(end - begin).count();
  lane.spans.push_back({Span::What::receipt, 0, 0, begin, end});
}

}  // namespace

void await_receipts(Report& report, Deadline deadline, std::stop_token stop) {
  const auto begin = Clock::now();
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any sleep;
  for (auto pause = kFirstLook;; pause = std::min(2 * pause, kLastLook)) {
    bool all = true;
    for (std::size_t i = 0; i < report.holds.size(); ++i) {
      auto& hold = report.holds[i];
      if (!hold) continue;
      if (hold->let_go()) {
        note(report.lanes[i], LaneReport::Receipt::seen, begin);
        hold.reset();
      } else {
        all = false;
      }
    }
    if (all || deadline.passed() || stop.stop_requested()) break;
    sleep.wait_until(lock, stop, deadline.earlier(Deadline::in(pause)).at(), [] { return false; });
  }
  for (std::size_t i = 0; i < report.holds.size(); ++i)
    if (report.holds[i]) note(report.lanes[i], LaneReport::Receipt::missing, begin);
}

}  // namespace ckptd::pipeline
