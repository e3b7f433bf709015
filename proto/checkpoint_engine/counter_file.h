// The file in which torch's processes count who uses CUDA memory of whom. Pure: no files. docs/worker_protocol.md,
// "Receipt", is the description.
//
//   offset 0    int32, atomic: how many processes have mapped the file. Each counts itself in and out, and who brings it
//               to 0 removes the name; so the owner counts as one for as long as the file is there
//   offset 64   10000 counters, int64: 1 from before the memory is offered, 0 once its user has unmapped it
//
// All in the byte order of the machine: it never leaves it. torch maps the whole and makes a shorter file as long, after
// which the first byte is 0: so a file is never shorter.
#pragma once

#include <cstdint>

namespace ckptd::proto::checkpoint_engine::counter_file {

inline constexpr std::uint64_t kHeaderBytes = 64;
inline constexpr std::uint64_t kCounters = 10'000;
inline constexpr std::uint64_t kBytes = kHeaderBytes + kCounters * sizeof(std::int64_t);

inline constexpr std::int32_t kOwnerAlone = 1;  ///< the header of a fresh file
inline constexpr std::int64_t kArmed = 1;       ///< a counter whose memory is offered

constexpr std::uint64_t offset_of(std::uint64_t counter) { return kHeaderBytes + counter * sizeof(std::int64_t); }

enum class Meaning {
  held,      ///< 1: as it was armed
  released,  ///< 0: unmapped
  nothing,   ///< any other value: somebody counted twice, or wrote what he liked. It proves neither
};
constexpr Meaning meaning_of(std::int64_t value) {
  if (value == kArmed) return Meaning::held;
  return value == 0 ? Meaning::released : Meaning::nothing;
}

}  // namespace ckptd::proto::checkpoint_engine::counter_file
