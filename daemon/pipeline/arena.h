// The one allocation of a device that is exported to ranks, once an update, and where it rests between updates.
//
// The first touch of fresh memory costs a second for some gigabytes, and device memory that was given back may be taken
// when the next update wants it. So an arena that every rank has let go of is kept for the next update, at most one for
// each device; what updates that run at once need beyond that is freed when they end. An arena whose update did not end
// well is freed as well: a rank may still map it. trim() frees what is kept.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::pipeline {

/// Allocates `wanted_bytes`, or, while the device refuses with no_space, half of what was tried before, down to
/// `smallest_bytes`. The error of the last try, with both numbers, when even that does not fit.
Result<std::unique_ptr<device::Allocation>> allocate_arena(device::Device& device, std::uint64_t wanted_bytes,
                                                           std::uint64_t smallest_bytes);

class Arenas;

/// An arena on loan. Frees it when destroyed, unless it was given back. Move only; the Arenas and the device outlive it.
class ArenaLoan {
 public:
  ArenaLoan(ArenaLoan&&) noexcept = default;
  ArenaLoan& operator=(ArenaLoan&&) = delete;
  ~ArenaLoan();

  device::Allocation& memory() const { return *memory_; }
  /// For an arena that no rank maps any more: the next update may have it.
  void give_back() &&;

 private:
  friend class Arenas;
  ArenaLoan(Arenas& arenas, const device::Device& device, std::unique_ptr<device::Allocation> memory)
      : arenas_(arenas), device_(device), memory_(std::move(memory)) {}

  Arenas& arenas_;
  const device::Device& device_;
  std::unique_ptr<device::Allocation> memory_;
};

/// Safe from any thread. Only borrow() blocks, while a device allocates, and nobody else waits for that.
class Arenas {
 public:
  /// Without `keep` every arena is freed when its update ends.
  explicit Arenas(bool keep) : keep_(keep) {}

  /// The device's kept arena if it holds `wanted_bytes`, or as much as the device has; else it is freed and a new one
  /// allocated, as allocate_arena() does it.
  Result<ArenaLoan> borrow(device::Device& device, std::uint64_t wanted_bytes, std::uint64_t smallest_bytes);

  /// Frees what is kept; returns how many bytes.
  std::uint64_t trim();

  struct Usage {
    std::uint64_t lent_bytes = 0;
    std::uint64_t kept_bytes = 0;  ///< waiting for the next update
  };
  Usage usage(const device::Device& device) const;

 private:
  friend class ArenaLoan;
  struct OfDevice {
    std::uint64_t lent_bytes = 0;
    std::unique_ptr<device::Allocation> kept;
  };
  std::unique_ptr<device::Allocation> take_kept(const device::Device& device);
  void end_loan(const device::Device& device, std::unique_ptr<device::Allocation> memory, bool reusable);

  const bool keep_;
  mutable std::mutex mutex_;  ///< guards what follows; never held while memory is allocated or freed
  std::map<const device::Device*, OfDevice> devices_;
};

}  // namespace ckptd::pipeline
