// The engines of one update, side by side as far as enough of them stay in service. Internal to the room.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <vector>

#include "common/result.h"

namespace ckptd::operations {

/// Calls `update` with the number of each engine, on a thread of its own, as fleet::may_begin() allows; returns when all
/// have ended or nothing more may begin. `serves` says of each whether it serves before; `update` returns whether it
/// succeeded, and `serves_after` is asked of one that failed. The numbers of those that were not begun are returned: too
/// many others are out of service, or a stop was requested.
std::vector<std::size_t> roll(const std::vector<bool>& serves, std::optional<std::uint64_t> max_unavailable,
                              const std::function<bool(std::size_t)>& update,
                              const std::function<bool(std::size_t)>& serves_after, std::stop_token stop);

}  // namespace ckptd::operations
