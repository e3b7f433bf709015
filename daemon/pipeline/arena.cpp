#include "daemon/pipeline/arena.h"

#include <algorithm>

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

}  // namespace ckptd::pipeline
