// One accelerator, real or made of host memory: memory, copies, ordering, export.
//
// The contract, which tests/contract/device_contract.h states once for every backend:
//   - Work queued on one Stream runs in the order in which it was queued. Work on two streams has no order unless one
//     waits for an Event that the other records. Nothing here is ordered by luck.
//   - Queuing never blocks for the work, as long as copies from the host are of registered memory and not more than some
//     hundred items wait in a stream. Only Event::wait and Stream::synchronize block, until their deadline.
//   - Errors of queued work are sticky on its stream and are returned by the next wait that covers the work. Where an error
//     takes the whole device with it, as with CUDA, it is sticky on the device instead: every later call, also one that
//     only queues, returns that first error (unavailable) until a restart, and other devices go on.
//   - Streams and events are used by one thread at a time; Device itself is safe from any thread. An event that nobody
//     records meanwhile may be waited for by several streams, each in its own thread.
//   - A wait for an event whose work failed fails the waiting stream. After an error a stream's copies are left out,
//     its waits and wakers are not: wake_when_done() wakes at once then.
//   - A Waker and the bytes of a copy from the host live until that item is done or the stream is destroyed.
//   - Destroying a stream waits for the work on it; destroying an allocation while work uses it is a bug of the caller.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "common/deadline.h"
#include "common/result.h"
#include "common/waker.h"

namespace ckptd::device {

/// A range of device memory in this process: an address as the device's copies take it. On the host it is a pointer.
struct Range {
  std::uintptr_t address = 0;
  std::uint64_t bytes = 0;

  Range part(std::uint64_t offset, std::uint64_t length) const { return {address + offset, length}; }
};

/// How another process opens an allocation. Made once for each allocation; a plain value, safe to copy and send.
/// kKeptByMapping: whether a mapping in another process keeps the memory when its owner frees it. Where it does not,
/// freeing memory that is still mapped is undefined, and the owner must first know that it is not.
struct HostExport {
  static constexpr bool kKeptByMapping = true;
  std::string path;  ///< a file that can be mapped shared, of one uid: /proc/PID/fd/N
  std::uint64_t bytes = 0;
};
struct CudaExport {
  static constexpr bool kKeptByMapping = false;
  std::array<std::uint8_t, 64> handle{};  ///< cudaIpcMemHandle_t
  std::uint64_t bytes = 0;
};
using Export = std::variant<HostExport, CudaExport>;

inline bool kept_by_mapping(const Export& exported) {
  return std::visit([](const auto& each) { return each.kKeptByMapping; }, exported);
}

/// Owns device memory, or a mapping of memory that somebody exported.
class Allocation {
 public:
  virtual ~Allocation() = default;
  virtual Range range() const = 0;
  /// unsupported for a mapping of somebody else's memory.
  virtual Result<Export> export_to_processes() = 0;
};

/// A point in a stream. Before the first record() it counts as reached; record() again re-arms it.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool reached() const = 0;
  /// timed_out when the point is not reached by then; the error of the stream when work before it failed.
  virtual Result<> wait(Deadline deadline) = 0;
  /// When the device came to the point, as the device saw it and not as somebody noticed; a backend says how far its
  /// clock may be off. Empty before it is reached, before the first record(), and of a device that cannot tell.
  virtual std::optional<Clock::time_point> reached_at() const = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual Result<> copy_from_host(Range to, const std::byte* from) = 0;  ///< to.bytes bytes; `from` lives until done
  virtual Result<> copy(Range to, Range from) = 0;                       ///< device to device, equal sizes
  virtual Result<> record(Event& event) = 0;
  virtual Result<> wait(const Event& event) = 0;     ///< work queued after this starts after the event's last record
  virtual Result<> wake_when_done(const Waker& waker) = 0;  ///< wakes once all work queued so far is done or failed
  virtual Result<> synchronize(Deadline deadline) = 0;
};

/// Keeps host memory page-locked for a device's copies. Unregisters when destroyed.
class HostRegistration {
 public:
  virtual ~HostRegistration() = default;
};

struct Identity {
  std::string kind;      ///< "host", "cuda"
  std::string uuid;      ///< what ranks know it by: "HOST-0", "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
  int numa_node = -1;    ///< -1: unknown or none
};

/// That nothing of a device works any more until a restart, and the first error that said so.
struct Loss {
  std::chrono::system_clock::time_point since;
  Error error;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const Identity& identity() const = 0;
  /// Empty while the device works. Cheap, and asks nobody: what has not failed a call yet is not known.
  virtual std::optional<Loss> lost() const { return {}; }
  /// no_space when that much is not free; nothing else is lost then and a smaller size may be tried.
  virtual Result<std::unique_ptr<Allocation>> allocate(std::uint64_t bytes) = 0;
  /// Maps what another allocation of the same kind of device exported, in this or another process.
  virtual Result<std::unique_ptr<Allocation>> open(const Export& exported) = 0;
  virtual Result<std::unique_ptr<Stream>> make_stream() = 0;
  virtual Result<std::unique_ptr<Event>> make_event() = 0;
  virtual Result<std::unique_ptr<HostRegistration>> register_host(std::span<std::byte> memory) = 0;
  virtual Result<std::uint64_t> free_bytes() const = 0;
};

}  // namespace ckptd::device
