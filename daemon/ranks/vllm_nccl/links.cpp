#include "daemon/ranks/vllm_nccl/links.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace ckptd::ranks::vllm_nccl {

namespace nccl = collective::nccl;

namespace {

/// One of another pid namespace has no number that tells it from its successor.
bool is_known(const std::optional<ProcessId>& server) { return server && server->pid != 0 && server->started != 0; }

}  // namespace

Links::Links(OpenLibrary open_library, nccl::Natives natives, nccl::Patience patience)
    : open_library_(std::move(open_library)), natives_(std::move(natives)), patience_(patience) {}

Links::~Links() = default;

Result<> Links::check_usable() {
  std::lock_guard lock(mutex_);
  if (!library_) library_ = CKPTD_TRY(open_library_());
  return {};
}

Result<std::shared_ptr<Link>> Links::make(device::Device& device, unsigned workers) {
  CKPTD_TRY(check_usable());
  std::lock_guard lock(mutex_);
  if (closed_) return fail(ErrorKind::unavailable, "ckptd is ending: no communicators are made any more");
  auto link = CKPTD_TRY(Link::make(library_, natives_, patience_, device, workers));
  std::erase_if(all_, [](const auto& each) { return each.expired(); });
  all_.push_back(link);
  return link;
}

std::shared_ptr<Link> Links::take(const std::string& engine, const std::optional<ProcessId>& server,
                                  device::Device& device, unsigned workers) {
  std::unique_lock lock(mutex_);
  const auto found = kept_.find(engine);
  if (found == kept_.end()) return nullptr;
  const auto kept = std::move(found->second);
  kept_.erase(found);
  lock.unlock();
  if (!is_known(server) || kept.server != *server || &kept.link->device() != &device || kept.link->workers() != workers)
    return nullptr;
  const auto well = kept.link->check();
  if (well) return kept.link;
  spdlog::warn("{}: {}; its workers join anew", engine, well.error().sentence);
  return nullptr;
}

void Links::keep(const std::string& engine, const std::optional<ProcessId>& server, std::shared_ptr<Link> link) {
  if (!is_known(server)) return;
  std::shared_ptr<Link> former;
  std::lock_guard lock(mutex_);
  if (closed_) return;
  auto& kept = kept_[engine];
  former = std::exchange(kept.link, std::move(link));
  kept.server = *server;
}

std::size_t Links::drop_idle() noexcept {
  std::map<std::string, Kept> dropped;
  const std::lock_guard lock(mutex_);
  dropped.swap(kept_);
  return dropped.size();
}

void Links::close(Deadline by) noexcept {
  std::vector<std::shared_ptr<Link>> all;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const auto& each : all_)
      if (auto still = each.lock()) all.push_back(std::move(still));
    kept_.clear();
  }
  for (const auto& each : all) each->hurry(by);
}

}  // namespace ckptd::ranks::vllm_nccl
