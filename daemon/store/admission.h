// May this much new memory be touched? Pure: numbers in, a sentence out when the answer is no.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/host_memory.h"
#include "common/result.h"

namespace ckptd::store {

/// What is left to everybody else under a ceiling: 2 % of it, at least 256 MiB.
std::uint64_t reserve_below(std::uint64_t total_bytes);

/// How much new memory may be touched on top of `promised_bytes` (admitted to others, not yet touched); nothing when
/// there is no ceiling.
std::optional<std::uint64_t> admissible_bytes(std::uint64_t promised_bytes, std::span<const Ceiling> ceilings);

/// no_space when `new_bytes` on top of `promised_bytes` would eat into a ceiling's reserve. Names the tightest ceiling.
Result<> admit_new_memory(std::uint64_t new_bytes, std::uint64_t promised_bytes, std::span<const Ceiling> ceilings);

/// no_space when `count` segments do not fit beside the `lent` ones into a budget of `budget` segments.
Result<> admit_into_budget(std::uint64_t count, std::uint64_t lent, std::uint64_t budget, std::uint64_t segment_bytes);

}  // namespace ckptd::store
