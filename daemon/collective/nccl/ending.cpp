// How a set of communicators ends: in order, cut off, or from another thread than its own.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/collective/nccl/communicators.h"

namespace ckptd::collective::nccl {
namespace {

using namespace std::chrono_literals;

/// Aborts what is not null, all within one group call: one after the other each might wait for the next one's kernel.
void abort_all(const std::vector<Comm>& comms, const Library& library) {
  const auto& functions = library.functions();
  Code first = functions.group_start();
  for (const Comm comm : comms)
    if (comm != nullptr)
      if (const Code code = functions.comm_abort(comm); first == Code::success) first = code;
  if (const Code code = functions.group_end(); first == Code::success) first = code;
  if (first != Code::success && first != Code::in_progress)
    spdlog::warn("{}", library.error(first, "aborting communicators of NCCL").sentence);
}

}  // namespace

/// `complete`: every step so far has succeeded for all members.
void Communicators::wind_down(bool complete) {
  std::unique_lock lock(mutex_);
  if (lost()) return;  // somebody else does it, or nobody may
  const End how = failure_ || !end_ ? End::cut : *end_;
  lock.unlock();
  if (complete && how == End::cut) drain();
  if (!complete || how == End::cut || !finish()) cut();
  lock.lock();
  if (lost()) return;
  queued_.clear();
  streams_in_use_ = false;
  ended_ = true;
  changed_.notify_all();
}

/// Each broadcast that is queued has its part on every stream, so all of them end by themselves as long as the streams'
/// other work does and no device is lost.
void Communicators::drain() {
  const auto deadline = Deadline::in(patience_.drain);
  for (std::uint32_t member = 0; member < queued_.size(); ++member) {
    while (true) {
      const auto reached = queued_[member]->wait(Deadline::in(10ms).earlier(deadline));
      if (reached || reached.error().kind != ErrorKind::timed_out) break;
      if (!deadline.passed() && !nothing_to_wait_for()) continue;
      spdlog::warn("a broadcast on {} does not come to its end: it is cut off", names_[member]);
      return;
    }
  }
}

/// Whether there is no use in waiting any more: a device is lost, we were abandoned, or somebody is in a hurry.
bool Communicators::nothing_to_wait_for() {
  // Under the mutex: devices may end as soon as we are abandoned.
  std::lock_guard lock(mutex_);
  if (lost() || (hurry_ && hurry_->first.passed())) return true;
  return std::ranges::any_of(devices_, [&](device::Device* device) { return !natives_.usable(*device); });
}

bool Communicators::finish() {
  const auto patience = Deadline::in(patience_.stuck);
  const std::string what = "finish a communicator";
  auto finished = within_group(what, [&](std::uint32_t member) {
    return expect(call(&Functions::comm_finalize, comms_[member]), names_[member] + ": " + what);
  });
  // settle() goes by end_, which has been ordered already.
  while (finished) {
    bool all = true;
    for (std::uint32_t member = 0; finished && member < comms_.size(); ++member) {
      Code state = Code::in_progress;
      finished = expect(call(&Functions::comm_get_async_error, comms_[member], &state), names_[member] + ": " + what);
      if (finished) finished = expect(state, names_[member] + ": " + what);
      all = all && state == Code::success;
    }
    if (!finished || all) break;
    if (const std::lock_guard lock(mutex_); hurried(patience).passed())
      finished = fail(ErrorKind::timed_out, "{} has taken too long", what);
    std::this_thread::sleep_for(500us);
  }
  if (!finished) {
    spdlog::debug("{}: aborted instead", finished.error().sentence);
    return false;
  }
  {
    std::lock_guard lock(mutex_);
    if (lost()) return true;
    cutting_ = true;  // from here on nobody else may end them
  }
  auto destroyed = within_group("destroy a communicator", [&](std::uint32_t member) {
    return expect(call(&Functions::comm_destroy, comms_[member]), names_[member] + ": destroy a communicator");
  });
  if (!destroyed) spdlog::warn("{}", destroyed.error().sentence);
  return true;
}

void Communicators::cut() {
  {
    std::lock_guard lock(mutex_);
    if (lost()) return;
    cutting_ = true;
    step_ = "abort the communicators";
  }
  abort_all(comms_, *library_);
}

/// With mutex_. Whether another thread has begun to abort what ours is stuck with.
bool Communicators::rescue() {
  if (rescued_) return true;
  if (!in_call_ || cutting_ || abandoned_) return false;
  try {
    std::thread([self = shared_from_this()] { self->run_rescue(); }).detach();
  } catch (const std::system_error&) {
    return false;
  }
  rescued_ = true;
  return true;
}

void Communicators::run_rescue() {
  std::unique_lock lock(mutex_);
  const auto comms = comms_;
  spdlog::warn("NCCL does not return from a call ({}): its communicators are aborted from another thread",
               in_progress());
  lock.unlock();
  abort_all(comms, *library_);
  lock.lock();
  if (abandoned_) return;
  queued_.clear();
  streams_in_use_ = false;
  ended_ = true;
  changed_.notify_all();
}

}  // namespace ckptd::collective::nccl
