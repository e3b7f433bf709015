// How much memory this process may lock: RLIMIT_MEMLOCK, unless it has CAP_IPC_LOCK.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace ckptd::store {

inline constexpr std::uint64_t kNoLockLimit = std::numeric_limits<std::uint64_t>::max();

/// The soft "Max locked memory" of /proc/self/limits, kNoLockLimit for "unlimited"; nothing when it is not there.
std::optional<std::uint64_t> parse_memlock_limit(std::string_view limits_text);

/// Whether CapEff of /proc/self/status has CAP_IPC_LOCK.
bool parse_may_lock_anything(std::string_view status_text);

/// What this process may lock. kNoLockLimit also when it cannot be read: then locking itself will tell.
std::uint64_t read_lock_limit(const std::filesystem::path& system_root);

/// What a person does about it; ends every sentence about a lock that failed.
std::string how_to_raise_the_lock_limit();

}  // namespace ckptd::store
