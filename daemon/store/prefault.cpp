#include "daemon/store/prefault.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <system_error>

#include "common/deadline.h"
#include "common/units.h"

namespace ckptd::store {
namespace {

// At 1 GB/s a reservation waits 4 ms for a step of the background. Before readiness nobody shall wait for less: steps
// are large enough for several threads.
constexpr std::uint64_t kBackgroundStepBytes = 4 * kMiB, kFullSpeedStepBytes = 64 * kMiB;
constexpr int kLowestPriority = 19;

}  // namespace

std::string_view name_of(PrefaultPolicy policy) {
  switch (policy) {
    case PrefaultPolicy::off: return "off";
    case PrefaultPolicy::background: return "background";
    case PrefaultPolicy::before_ready: return "before-ready";
  }
  return "unknown";
}

std::string_view name_of(PrefaultStatus::State state) {
  switch (state) {
    case PrefaultStatus::State::off: return "off";
    case PrefaultStatus::State::running: return "running";
    case PrefaultStatus::State::done: return "done";
    case PrefaultStatus::State::ended: return "ended";
  }
  return "unknown";
}

Prefault::Prefault(Pool& pool, PrefaultPolicy policy)
    : pool_(pool),
      policy_(policy),
      state_(policy == PrefaultPolicy::off ? PrefaultStatus::State::off : PrefaultStatus::State::running) {
  if (policy == PrefaultPolicy::off) return;
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  } catch (const std::system_error& error) {
    finish(PrefaultStatus::State::ended, fmt::format("no thread could be started: {}", error.what()));
  }
}

Prefault::~Prefault() { end("the daemon ends"); }

void Prefault::end(std::string why) {
  std::scoped_lock one_at_a_time(join_mutex_);
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  std::scoped_lock hold(mutex_);
  if (state_ != PrefaultStatus::State::running) return;
  state_ = PrefaultStatus::State::ended;
  why_ = std::move(why);
}

void Prefault::run(const std::stop_token& stop) {
  const bool background = policy_ == PrefaultPolicy::background;
  // Linux gives each thread a priority of its own.
  if (background) ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLowestPriority);
  const auto start = Clock::now();
  std::uint64_t made_bytes = 0;
  for (;;) {
    auto made = pool_.prepare(background ? kBackgroundStepBytes : kFullSpeedStepBytes, stop);
    if (!made) {
      spdlog::warn("prefaulting ended with {} of {} ready, the rest is left to the loads that need it: {}",
                   show_bytes(pool_.usage().ready_bytes), show_bytes(pool_.budget_bytes()), made.error().sentence);
      return finish(PrefaultStatus::State::ended, made.error().sentence);
    }
    if (stop.stop_requested()) return;
    if (*made == 0) break;
    made_bytes += *made;
  }
  const auto usage = pool_.usage();
  const auto seconds = std::chrono::duration<double>(Clock::now() - start).count();
  spdlog::info("prefaulted {} in {} ({}): {} of {} are ready, {} locked", show_bytes(made_bytes), show_seconds(seconds),
               show_rate(made_bytes, seconds), show_bytes(usage.ready_bytes), show_bytes(pool_.budget_bytes()),
               show_bytes(usage.locked_bytes));
  finish(PrefaultStatus::State::done, {});
}

void Prefault::finish(PrefaultStatus::State state, std::string why) {
  std::scoped_lock hold(mutex_);
  state_ = state;
  why_ = std::move(why);
}

PrefaultStatus Prefault::status() const {
  PrefaultStatus status{.state = PrefaultStatus::State::off,
                        .policy = policy_,
                        .ready_bytes = pool_.usage().ready_bytes,
                        .total_bytes = pool_.budget_bytes(),
                        .why = {}};
  std::scoped_lock hold(mutex_);
  status.state = state_;
  status.why = why_;
  return status;
}

}  // namespace ckptd::store
