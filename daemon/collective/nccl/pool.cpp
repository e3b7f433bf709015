#include "daemon/collective/nccl/pool.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace ckptd::collective::nccl {
namespace {

/// However late it is: sets that are well need some milliseconds, and what is abandoned stays behind.
constexpr std::chrono::milliseconds kLeastDrain{500};

}  // namespace

Pool::Pool(std::shared_ptr<const Library> library, Natives natives, Patience patience)
    : library_(std::move(library)), natives_(std::move(natives)), patience_(patience) {}

Result<std::shared_ptr<Communicators>> Pool::borrow(const std::vector<device::Device*>& devices,
                                                    const std::vector<std::string>& names, const std::stop_token& stop) {
  const Error stopped{ErrorKind::cancelled, "the update was cancelled before its communicators of NCCL were there"};
  if (stop.stop_requested()) return std::unexpected(stopped);
  for (device::Device* device : devices) CKPTD_TRY(natives_.usable(*device));
  if (auto idle = take_idle(devices)) {
    std::stop_callback on_stop(stop, [&] { idle->end(Communicators::End::cut, stopped); });
    auto well = idle->check(Deadline::in(patience_.stuck));
    if (well) return idle;
    if (stop.stop_requested()) return std::unexpected(stopped);
    spdlog::warn("{}; they are made anew", well.error().sentence);
    idle->end(Communicators::End::cut, well.error());
  }
  auto made = CKPTD_TRY(begin(devices, names));
  std::stop_callback on_stop(stop, [&] { made->end_unless_ready(stopped); });
  const auto start = Clock::now();
  if (auto ready = made->wait_until_ready(Deadline::in(patience_.start)); !ready) {
    made->end(Communicators::End::cut, ready.error());
    return std::unexpected(ready.error());
  }
  spdlog::info("NCCL {}: communicators of {} made in {} ms", show_version(library_->version()), fmt::join(names, ", "),
               std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count());
  return made;
}

std::shared_ptr<Communicators> Pool::take_idle(const std::vector<device::Device*>& devices) {
  std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(idle_, [&](const auto& each) { return each->devices() == devices; });
  if (found == idle_.end()) return nullptr;
  auto taken = std::move(*found);
  idle_.erase(found);
  return taken;
}

Result<std::shared_ptr<Communicators>> Pool::begin(const std::vector<device::Device*>& devices,
                                                   const std::vector<std::string>& names) {
  std::lock_guard lock(mutex_);
  if (closed_by_) return fail(ErrorKind::unavailable, "ckptd is ending: no communicators are made any more");
  auto made = CKPTD_TRY(Communicators::start(library_, natives_, patience_, devices, names));
  std::erase_if(all_, [](const auto& each) { return each.expired(); });
  all_.push_back(made);
  ++epochs_;
  return made;
}

void Pool::give_back(std::shared_ptr<Communicators> communicators) noexcept {
  const Error reason{ErrorKind::cancelled, "these communicators are not needed any more"};
  std::lock_guard lock(mutex_);
  const bool there =
      std::ranges::any_of(idle_, [&](const auto& each) { return each->devices() == communicators->devices(); });
  if (closed_by_ || there) return communicators->end(Communicators::End::finish, reason);
  idle_.push_back(std::move(communicators));
  if (idle_.size() <= kMostIdle) return;
  idle_.front()->end(Communicators::End::finish, reason);
  idle_.erase(idle_.begin());
}

std::size_t Pool::drop_idle() noexcept {
  const Error reason{ErrorKind::cancelled, "these communicators were given back to save memory of their GPUs"};
  std::lock_guard lock(mutex_);
  for (const auto& each : idle_) each->end(Communicators::End::finish, reason);
  const auto count = idle_.size();
  idle_.clear();
  return count;
}

void Pool::close(Deadline by) noexcept {
  const Error reason{ErrorKind::unavailable, "ckptd is ending"};
  std::lock_guard lock(mutex_);
  closed_by_ = closed_by_ ? closed_by_->earlier(by) : by;
  for (const auto& each : idle_) each->end(Communicators::End::finish, reason);
  idle_.clear();
  for (const auto& each : all_)
    if (const auto still = each.lock()) {
      still->hurry(by);
      still->end_unless_ready(reason);
    }
}

void Pool::drain() {
  std::unique_lock lock(mutex_);
  std::vector<std::shared_ptr<Communicators>> all;
  for (const auto& each : std::exchange(all_, {}))
    if (auto still = each.lock()) all.push_back(std::move(still));
  const auto by = closed_by_;
  lock.unlock();
  // Each is told before the first is waited for: they end side by side.
  for (const auto& each : all) each->end(Communicators::End::cut, {ErrorKind::unavailable, "ckptd is ending"});
  const auto now = Clock::now();
  // As long as NCCL returns from its calls, an end takes at most its drain and its finish; the rest is for an abort in its
  // place. In a hurry each has half.
  auto unaided = patience_.drain + 2 * patience_.stuck, left = unaided + patience_.stuck;
  if (by) {
    const auto until = std::chrono::ceil<std::chrono::milliseconds>(by->at() - now);
    if (until < left) left = std::max(kLeastDrain, until), unaided = left / 2;
  }
  for (const auto& each : all) each->wait_until_ended(Deadline(now + unaided), Deadline(now + left));
}

std::size_t Pool::epochs() const {
  std::lock_guard lock(mutex_);
  return epochs_;
}

std::size_t Pool::idle() const {
  std::lock_guard lock(mutex_);
  return idle_.size();
}

}  // namespace ckptd::collective::nccl
