#include "daemon/pipeline/arena.h"

#include <algorithm>
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

}  // namespace

ArenaLoan::~ArenaLoan() {
  if (memory_) arenas_.end_loan(device_, std::move(memory_), false);
}

void ArenaLoan::give_back() && { arenas_.end_loan(device_, std::move(memory_), true); }

Result<ArenaLoan> Arenas::borrow(device::Device& device, std::uint64_t wanted_bytes, std::uint64_t smallest_bytes) {
  auto memory = take_kept(device);
  // Freed first: the new one may need its room.
  if (memory && !is_enough(memory->range().bytes, device, wanted_bytes, smallest_bytes)) memory.reset();
  if (!memory) memory = CKPTD_TRY(allocate_arena(device, wanted_bytes, smallest_bytes));
  std::lock_guard lock(mutex_);
  devices_[&device].lent_bytes += memory->range().bytes;
  return ArenaLoan(*this, device, std::move(memory));
}

std::unique_ptr<device::Allocation> Arenas::take_kept(const device::Device& device) {
  std::lock_guard lock(mutex_);
  return std::move(devices_[&device].kept);
}

/// Of two that could be kept the larger one stays. The other is freed after the lock is released.
void Arenas::end_loan(const device::Device& device, std::unique_ptr<device::Allocation> memory, bool reusable) {
  std::lock_guard lock(mutex_);
  auto& mine = devices_[&device];
  mine.lent_bytes -= memory->range().bytes;
  const auto kept_bytes = mine.kept ? mine.kept->range().bytes : 0;
  if (reusable && keep_ && memory->range().bytes > kept_bytes) std::swap(mine.kept, memory);
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
  std::lock_guard lock(mutex_);
  const auto at = devices_.find(&device);
  if (at == devices_.end()) return {};
  return {at->second.lent_bytes, at->second.kept ? at->second.kept->range().bytes : 0};
}

}  // namespace ckptd::pipeline
