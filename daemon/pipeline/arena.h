// The one allocation of a device that is exported to ranks, once an update, and where it rests between updates.
//
// The first touch of fresh memory costs a second for some gigabytes, and device memory that was given back may be taken
// when the next update wants it. So an arena that every rank has let go of is kept for the next update, at most one for
// each device; what updates that run at once need beyond that is freed when they end. trim() frees what is kept.
//
// An arena that a rank may still map is never kept. Where a mapping keeps the memory it is freed at once. Where it does
// not, freeing it would be undefined: it goes into quarantine, neither freed nor used, until the rank's hold has let go.
// A thread looks for that while there is something in quarantine; then the arena is kept if its update ended well, or
// freed. What is in quarantine at the end of the process is left to the system, which takes it back with the process.
//
//   borrow -> lent --give_back------------> kept --borrow--> lent ...
//               |  (destroyed)-----------> freed <--trim---'
//               '---quarantine--> quarantined --(let go)--> kept, or freed
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/result.h"
#include "daemon/device/device.h"
#include "daemon/ranks/session.h"

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
  /// For one that a rank may still map, which its mapping does not keep. `reusable`: kept once the rank has let go.
  void quarantine(std::shared_ptr<ranks::Hold> hold, bool reusable) &&;

 private:
  friend class Arenas;
  ArenaLoan(Arenas& arenas, const device::Device& device, std::unique_ptr<device::Allocation> memory)
      : arenas_(arenas), device_(device), memory_(std::move(memory)) {}

  Arenas& arenas_;
  const device::Device& device_;
  std::unique_ptr<device::Allocation> memory_;
};

/// Safe from any thread. Only borrow() blocks, while a device allocates, and nobody else waits for that. The devices
/// outlive it, and also the process's end if anything is in quarantine then.
class Arenas {
 public:
  /// Without `keep` every arena is freed when its update ends.
  explicit Arenas(bool keep) : keep_(keep) {}
  ~Arenas();
  Arenas(const Arenas&) = delete;  // its thread points here
  Arenas& operator=(const Arenas&) = delete;

  /// The device's kept arena if it holds `wanted_bytes`, or as much as the device has; else it is freed and a new one
  /// allocated, as allocate_arena() does it.
  Result<ArenaLoan> borrow(device::Device& device, std::uint64_t wanted_bytes, std::uint64_t smallest_bytes);

  /// Frees what is kept; returns how many bytes.
  std::uint64_t trim();

  struct Usage {
    std::uint64_t lent_bytes = 0;
    std::uint64_t kept_bytes = 0;  ///< waiting for the next update
    std::uint64_t quarantined_bytes = 0;
  };
  Usage usage(const device::Device& device) const;

  struct InQuarantine {
    std::uint64_t bytes = 0;
    ranks::Holder holder;
    std::string why;  ///< see ranks::Hold
    std::chrono::system_clock::time_point since;
  };
  std::vector<InQuarantine> quarantine(const device::Device& device) const;

 private:
  friend class ArenaLoan;
  struct OfDevice {
    std::uint64_t lent_bytes = 0;
    std::unique_ptr<device::Allocation> kept;
  };
  struct Quarantined {
    const device::Device* device = nullptr;
    std::unique_ptr<device::Allocation> memory;
    std::shared_ptr<ranks::Hold> hold;
    bool reusable = false;
    std::chrono::system_clock::time_point since;
  };
  std::unique_ptr<device::Allocation> take_kept(const device::Device& device);
  void end_loan(const device::Device& device, std::unique_ptr<device::Allocation> memory, bool reusable);
  void put_into_quarantine(const device::Device& device, std::unique_ptr<device::Allocation> memory,
                           std::shared_ptr<ranks::Hold> hold, bool reusable);
  Error name_quarantine(Error error, const device::Device& device) const;
  void look_for_ends(std::stop_token stop);
  std::optional<Quarantined> take_one_let_go();
  void keep_if_larger(OfDevice& mine, std::unique_ptr<device::Allocation>& memory) const;

  const bool keep_;
  mutable std::mutex mutex_;  ///< guards what follows; never held while memory is allocated or freed
  std::map<const device::Device*, OfDevice> devices_;
  std::vector<Quarantined> quarantine_;
  std::condition_variable_any more_;  ///< something went into quarantine
  std::uint64_t entries_ = 0;         ///< into quarantine, ever
  std::jthread looker_;               ///< started by the first one; last: it uses the above
};

}  // namespace ckptd::pipeline
