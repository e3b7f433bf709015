#include "daemon/pipeline/arena.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "common/units.h"

namespace ckptd::pipeline {

Result<std::unique_ptr<device::Allocation>> allocate_arena(device::Device& device, std::uint64_t wanted_bytes,
                                                           std::uint64_t smallest_bytes) {
  constexpr std::uint64_t kStep = 4096;
  for (auto bytes = std::max(wanted_bytes, smallest_bytes);;) {
    auto arena = device.allocate(bytes);
    if (arena || arena.error().kind != ErrorKind::no_space) return arena;
    if (bytes == smallest_bytes)
      return std::unexpected(arena.error().within(
          fmt::format("arena on {} (wanted {}, at least {} for the largest tensor)", device.identity().uuid,
                      show_bytes(wanted_bytes), show_bytes(smallest_bytes))));
    bytes = std::max(round_up(bytes / 2, kStep), smallest_bytes);
  }
}

namespace {

/// As large as is wanted, or as the device could give in its place.
bool is_enough(std::uint64_t bytes, const device::Device& device, std::uint64_t wanted_bytes,
               std::uint64_t smallest_bytes) {
  if (bytes >= wanted_bytes) return true;
  const auto free_bytes = device.free_bytes();
  return bytes >= smallest_bytes && free_bytes && *free_bytes + bytes < wanted_bytes;
}

constexpr std::chrono::milliseconds kFirstLook{10}, kLastLook{500};

std::string show(const ranks::Holder& holder) {
  std::vector<std::string> processes;
  for (const auto& peer : holder.processes)
    processes.push_back(peer.pid > 0 ? fmt::format("pid {}", peer.pid) : "a process outside our pid namespace");
  return fmt::format("rank of engine {} ({})", holder.engine, fmt::join(processes, ", "));
}

/// Never freed, and reachable until the end: it is kept on purpose.
void abandon(std::unique_ptr<device::Allocation> memory) {
  static auto* const abandoned = new std::vector<device::Allocation*>();
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  abandoned->push_back(memory.release());
}

}  // namespace

ArenaLoan::~ArenaLoan() {
  if (memory_) arenas_.end_loan(device_, std::move(memory_), false);
}

void ArenaLoan::give_back() && { arenas_.end_loan(device_, std::move(memory_), true); }

void ArenaLoan::quarantine(std::shared_ptr<ranks::Hold> hold, bool reusable) && {
  arenas_.put_into_quarantine(device_, std::move(memory_), std::move(hold), reusable);
}

Arenas::~Arenas() {
  looker_ = {};  // ends it
  for (auto& each : quarantine_) {
    if (each.hold->let_go()) continue;
    spdlog::warn("an arena of {} on {} is still in quarantine: the {} may map it. It ends with this process",
                 show_bytes(each.memory->range().bytes), each.device->identity().uuid, show(each.hold->holder()));
    abandon(std::move(each.memory));
  }
}

Result<ArenaLoan> Arenas::borrow(device::Device& device, std::uint64_t wanted_bytes, std::uint64_t smallest_bytes) {
  auto memory = take_kept(device);
  // Freed first: the new one may need its room.
  if (memory && !is_enough(memory->range().bytes, device, wanted_bytes, smallest_bytes)) memory.reset();
  if (!memory) {
    auto allocated = allocate_arena(device, wanted_bytes, smallest_bytes);
    if (!allocated) return std::unexpected(name_quarantine(allocated.error(), device));
    memory = *std::move(allocated);
  }
  std::lock_guard lock(mutex_);
  devices_[&device].lent_bytes += memory->range().bytes;
  return ArenaLoan(*this, device, std::move(memory));
}

std::unique_ptr<device::Allocation> Arenas::take_kept(const device::Device& device) {
  std::lock_guard lock(mutex_);
  return std::move(devices_[&device].kept);
}

Error Arenas::name_quarantine(Error error, const device::Device& device) const {
  if (error.kind != ErrorKind::no_space) return error;
  for (const auto& each : quarantine(device))
    error.sentence += fmt::format("; {} more are in quarantine, because the {} may still map it: end that process",
                                  show_bytes(each.bytes), show(each.holder));
  return error;
}

/// Of two that could be kept the larger one stays. The other is freed after the lock is released.
void Arenas::end_loan(const device::Device& device, std::unique_ptr<device::Allocation> memory, bool reusable) {
  std::lock_guard lock(mutex_);
  auto& mine = devices_[&device];
  mine.lent_bytes -= memory->range().bytes;
  if (reusable) keep_if_larger(mine, memory);
}

void Arenas::keep_if_larger(OfDevice& mine, std::unique_ptr<device::Allocation>& memory) const {
  const auto kept_bytes = mine.kept ? mine.kept->range().bytes : 0;
  if (keep_ && memory->range().bytes > kept_bytes) std::swap(mine.kept, memory);
}

void Arenas::put_into_quarantine(const device::Device& device, std::unique_ptr<device::Allocation> memory,
                                 std::shared_ptr<ranks::Hold> hold, bool reusable) {
  const auto bytes = memory->range().bytes;
  spdlog::warn("the arena of {} on {} goes into quarantine, neither freed nor used: the {} may still map it; {}",
               show_bytes(bytes), device.identity().uuid, show(hold->holder()), hold->why());
  std::lock_guard lock(mutex_);
  devices_[&device].lent_bytes -= bytes;
  quarantine_.push_back({&device, std::move(memory), std::move(hold), reusable, std::chrono::system_clock::now()});
  ++entries_;
  try {
    if (!looker_.joinable()) looker_ = std::jthread([this](std::stop_token stop) { look_for_ends(stop); });
  } catch (const std::exception& error) {
    spdlog::error("nobody looks for the end of the quarantine until the next arena goes there: {}", error.what());
  }
  more_.notify_all();
}

/// Soon after one went in, then ever more seldom: most end within a moment, or with their process.
void Arenas::look_for_ends(std::stop_token stop) {
  auto pause = kFirstLook;
  std::uint64_t seen = 0;
  while (!stop.stop_requested()) {
    while (auto ended = take_one_let_go()) {
      const auto bytes = ended->memory->range().bytes;
      spdlog::info("the arena of {} on {} leaves quarantine: the {} does not map it any more", show_bytes(bytes),
                   ended->device->identity().uuid, show(ended->hold->holder()));
      std::lock_guard lock(mutex_);
      if (ended->reusable) keep_if_larger(devices_[ended->device], ended->memory);
    }
    std::unique_lock lock(mutex_);
    const auto news = [&] { return entries_ != seen; };
    if (quarantine_.empty())
      more_.wait(lock, stop, news);
    else
      more_.wait_for(lock, stop, pause, news);
    pause = news() ? kFirstLook : std::min(2 * pause, kLastLook);
    seen = entries_;
  }
}

std::optional<Arenas::Quarantined> Arenas::take_one_let_go() {
  std::lock_guard lock(mutex_);
  const auto at = std::ranges::find_if(quarantine_, [](const auto& each) { return each.hold->let_go(); });
  if (at == quarantine_.end()) return std::nullopt;
  auto taken = std::move(*at);
  quarantine_.erase(at);
  return taken;
}

std::uint64_t Arenas::trim() {
  std::vector<std::unique_ptr<device::Allocation>> freed;
  std::uint64_t bytes = 0;
  std::lock_guard lock(mutex_);
  for (auto& [device, mine] : devices_) {
    if (!mine.kept) continue;
    bytes += mine.kept->range().bytes;
    freed.push_back(std::move(mine.kept));
  }
  return bytes;
}

Arenas::Usage Arenas::usage(const device::Device& device) const {
  Usage usage;
  std::lock_guard lock(mutex_);
  if (const auto at = devices_.find(&device); at != devices_.end()) {
    usage.lent_bytes = at->second.lent_bytes;
    usage.kept_bytes = at->second.kept ? at->second.kept->range().bytes : 0;
  }
  for (const auto& each : quarantine_)
    if (each.device == &device) usage.quarantined_bytes += each.memory->range().bytes;
  return usage;
}

std::vector<Arenas::InQuarantine> Arenas::quarantine(const device::Device& device) const {
  std::vector<InQuarantine> shown;
  std::lock_guard lock(mutex_);
  for (const auto& each : quarantine_)
    if (each.device == &device)
      shown.push_back({each.memory->range().bytes, each.hold->holder(), each.hold->why(), each.since});
  return shown;
}

}  // namespace ckptd::pipeline
