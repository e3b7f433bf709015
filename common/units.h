// Sizes, durations and rates between people and programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd {

inline constexpr std::uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;

constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t step) { return value / step * step; }
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

/// "8GiB", "512 MiB", "1.5GB", "4096": bytes. Powers of two with an i, of ten without; anything else is an error that
/// shows an example. Refuses what does not fit 63 bits.
Result<std::uint64_t> parse_bytes(std::string_view text);

/// "1.25 GiB", "312 B": at most three significant digits, for people.
std::string show_bytes(std::uint64_t bytes);

/// "30s", "2m", "1h", "250ms".
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

/// "1.25 GB/s", or "-" when no time has passed. Rates are decimal, as links and disks are sold.
std::string show_rate(std::uint64_t bytes, double seconds);

/// "0.42 s", "3 m 05 s".
std::string show_seconds(double seconds);

}  // namespace ckptd
