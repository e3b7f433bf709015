// Owns the pinned segments under a budget, lends them, takes them back still touched, locked and registered.
//
// A segment is one memfd of a fixed size on one NUMA node, mapped, touched and locked once: first touch is slow (0.4 to
// 1.7 GB/s on a virtual machine), so a segment that a version gives back stays as it is and the next version gets it
// warm. Segments are spread over the nodes that have devices, by how many each has. trim() returns idle segments to the
// system. Segments of 2 MiB pages are used while the machine's pool has them, one segment at a time. Prefaulting makes the
// budget ready ahead of the first load; a reservation goes first, and memory that cannot be had ends it with a warning.
// All functions are safe from any thread; reserve() blocks while it touches memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::store {

enum class LockPolicy { required, try_, off };

/// Whether the budget is made ready ahead of its use. off: each load makes what it needs. background: by one thread of
/// low priority, a few MiB at a time. before_ready: at full speed, for a daemon that calls itself ready only afterwards.
enum class PrefaultPolicy { off, background, before_ready };
std::string_view name_of(PrefaultPolicy policy);  ///< "off", "background", "before-ready"

struct Options {
  std::uint64_t budget_bytes = 0;
  std::uint64_t segment_bytes = 0;  ///< 0: from the budget, see default_segment_bytes()
  LockPolicy lock = LockPolicy::required;
  bool huge_pages = true;
  PrefaultPolicy prefault = PrefaultPolicy::off;
  std::filesystem::path system_root = "/";  ///< replaces "/" for what is read from /proc and /sys
};

/// 1 GiB; under small budgets the largest power of two that still gives 64 segments, never below 2 MiB.
std::uint64_t default_segment_bytes(std::uint64_t budget_bytes);

/// One piece of pinned memory. Enough stands here for a new process to adopt it: bytes, node and page size.
struct Segment {
  std::uint32_t number = 0;  ///< unique while the store lives; in the memfd's name: ckptd-segment-<number>
  int memfd = -1;            ///< owned by the store
  std::span<std::byte> memory;
  int numa_node = -1;        ///< -1: the machine has one
  bool huge_pages = false;
  bool locked = false;
};

/// A lent segment with any number of holders; it goes back to the store when the last of them lets go. The store must
/// outlive them all.
using SharedSegment = std::shared_ptr<const Segment>;

class Store;

/// Segments on loan. Returns them to the store when destroyed; move only. The store must outlive it.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&&) noexcept;
  Reservation& operator=(Reservation&&) noexcept;
  ~Reservation();

  std::span<const Segment* const> segments() const { return segments_; }
  std::uint64_t bytes() const;

 private:
  friend class Store;
  friend std::vector<SharedSegment> share(Reservation reservation);
  Store* store_ = nullptr;
  std::vector<const Segment*> segments_;
};

/// Turns a loan into segments that go back one by one, in the same order.
std::vector<SharedSegment> share(Reservation reservation);

struct Usage {
  std::uint64_t budget_bytes = 0;
  std::uint64_t segment_bytes = 0;
  std::uint64_t lent_bytes = 0;    ///< in reservations, those being made included
  std::uint64_t idle_bytes = 0;    ///< touched, waiting for the next version
  std::uint64_t ready_bytes = 0;   ///< lent or idle, and touched, locked and registered
  std::uint64_t locked_bytes = 0;
  std::uint64_t huge_page_bytes = 0;
};

/// How far the budget was made ready ahead of its use.
struct PrefaultStatus {
  enum class State { off, running, done, ended };  ///< ended: before all was ready, `why` says so
  State state = State::off;
  PrefaultPolicy policy = PrefaultPolicy::off;
  std::uint64_t ready_bytes = 0, total_bytes = 0;
  std::string why;
};
std::string_view name_of(PrefaultStatus::State state);

/// Asked when a reservation does not fit: gives back at least `missing_segments` (by destroying Reservations), or says
/// why not; `refusal` is what the store would answer. Runs on the thread that reserves, one at a time in the whole store.
using MakeRoom = std::function<Result<>(std::uint64_t missing_segments, const Error& refusal)>;

class Store {
 public:
  /// Checks budget, RLIMIT_MEMLOCK (lock = required) and segment size; touches nothing yet. The errors say which flag
  /// or which limit helps, with numbers. `devices` register each new segment and must outlive the store.
  static Result<std::unique_ptr<Store>> create(const Options& options, std::vector<device::Device*> devices);
  ~Store();

  /// `count` segments, idle ones first, then the one that prefaulting has begun. no_space, with budget, use and the flag
  /// that helps, when the budget, the memory that is free now or the cgroup's limit does not allow it and `make_room`
  /// does not help; nothing is kept then. `touched` is told the bytes made ready so far; a stop request ends it with
  /// cancelled.
  Result<Reservation> reserve(std::uint64_t count, std::stop_token stop = {},
                              const std::function<void(std::uint64_t)>& touched = {}, const MakeRoom& make_room = {});

  /// Gives idle segments back to the system; returns how many bytes. It also ends prefaulting for good: what somebody
  /// gave back is taken again only by a load that needs it.
  std::uint64_t trim();

  Usage usage() const;
  PrefaultStatus prefault() const;
  std::uint64_t segment_bytes() const;

 private:
  friend class Reservation;
  friend std::vector<SharedSegment> share(Reservation reservation);
  Store();
  void take_back(std::span<const Segment* const> segments) noexcept;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ckptd::store
