// Measures what the machine can do at best, to compare updates and loads with: copies from host memory to a device, in
// the way the pipeline makes them, copies from one device to another as collective/local makes them, and the hashing of
// one core.
//
// A probe has memory of its own and not the store's: a load that comes meanwhile must not be refused because the budget
// is lent to a measurement. So it stays small: the bytes asked for, halved until they are at most an eighth of what
// the machine, its control group and the device have free. Blocks; everything is given back when it returns.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>

#include "common/result.h"
#include "common/unique_fd.h"
#include "daemon/device/device.h"

namespace ckptd::probe {

struct Limits {
  std::uint64_t bytes = 256 << 20;             ///< of one round
  std::chrono::milliseconds working{1'000};    ///< rounds go on until this has passed; at least two are made
  std::chrono::milliseconds deadline{30'000};  ///< of one round: a device that takes longer has failed
  std::filesystem::path system_root = "/";     ///< replaces "/" for what is read from /proc and /sys
};

struct Rate {
  double bytes_per_second = 0;  ///< of the best round
  std::uint64_t bytes = 0;      ///< of one round
};

/// Host memory as the store has it: a shared mapping of a memfd, every page written.
class HostMemory {
 public:
  /// no_space when less than 4 MiB would do.
  static Result<std::unique_ptr<HostMemory>> make(const Limits& limits);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  HostMemory(UniqueFd memfd, std::span<std::byte> bytes);
  UniqueFd memfd_;
  std::span<std::byte> bytes_;
};

inline constexpr std::size_t kMostPeers = 7;  ///< the others of a node of eight

/// Asked between rounds; an error ends the measurement with it.
using MayGoOn = std::function<Result<>()>;

Result<Rate> measure_copies(device::Device& device, std::span<std::byte> from, const Limits& limits,
                            const MayGoOn& may_go_on);
/// Copies into `to` from each of `peers` in turn, in a stream of `to`: the rate of the best. Of many only the first
/// kMostPeers are tried, which share the working time. invalid_argument without a peer.
Result<Rate> measure_spread(device::Device& to, std::span<device::Device* const> peers, const Limits& limits,
                            const MayGoOn& may_go_on);
Result<Rate> measure_hash(std::span<const std::byte> memory, const Limits& limits, const MayGoOn& may_go_on);

}  // namespace ckptd::probe
