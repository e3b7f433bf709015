// One session: the conversation with one attached process about one update.
//
// A protocol (the checkpoint-engine worker's, vLLM's own) is one backend of this interface. The caller, a lane, sends one
// step, then wait()s for its acknowledgement before it sends the next: never two steps at once. A session belongs to
// one thread at a time; it may be made on one thread and handed to another.
//
//   offer -> acknowledged -> { reload -> acknowledged }... -> release -> acknowledged -> finish -> acknowledged
//
// After the last acknowledgement the session may be destroyed. Destroying it earlier hands the endpoint to the
// custodian with the error given to fail(), or "the sender gave up" if none was: a rank is never left in recv.
//
// Some engines come back: the same process connects to the same endpoint once more, while its engine's update is still
// open, and wants everything again (SGLang, for the worker of its draft model). wait_again() waits for that; then the
// session is as new.
//
// An acknowledged release says that the rank dropped its own reference, not that the memory is unmapped. Where that
// matters, hold() tells.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/process.h"
#include "common/result.h"
#include "daemon/device/device.h"
#include "daemon/weights/dtype.h"

namespace ckptd::ranks {

/// A tensor of a bucket as the rank is told: where it stands in the offered memory.
struct TensorView {
  std::string_view name;
  weights::Dtype dtype;
  std::span<const std::uint64_t> shape;
  std::uint64_t offset = 0;  ///< bytes from the start of the offered memory
};

/// What the protocol asks of plan: fixed while the session lives.
struct Traits {
  std::uint64_t run_alignment = 256;
  std::uint32_t reloads_in_flight = 1;
  bool gapless = false;  ///< tensors stand back to back in a bucket, in the order in which they are told
};

/// Who is on the other side, as far as the kernel tells. Empty until it has connected.
struct Peer {
  int pid = 0;
  unsigned uid = 0;
  std::uint64_t started = 0;  ///< of the process, see ProcessId

  ProcessId process() const { return {pid, started}; }
};

enum class Step { connect, offer, reload, release, finish };
std::string_view name_of(Step step);

/// Who may still map memory that was offered.
struct Holder {
  std::string engine, device;
  std::vector<Peer> processes;  ///< that may have been told how to open it
};

/// What is known of a rank's mapping of memory that must not be freed under it. Outlives the session. Safe from any
/// thread; nothing blocks.
class Hold {
 public:
  virtual ~Hold() = default;
  /// Whether it is certain that nobody maps the memory any more: the rank's receipt is there, or the processes are gone.
  /// Looks anew each time; once true it stays true.
  virtual bool let_go() = 0;
  virtual Holder holder() const = 0;
  /// Why let_go() is not true, for people: what was seen of the receipt, and what would help.
  virtual std::string why() const = 0;
};

class Session {
 public:
  virtual ~Session() = default;

  virtual const std::string& endpoint() const = 0;  ///< what the engine is told; empty when nobody waits at one
  virtual const std::string& device() const = 0;    ///< uuid of the device whose memory is offered
  virtual Traits traits() const = 0;
  virtual std::optional<Peer> peer() const = 0;
  virtual bool touched() const = 0;  ///< a reload was sent: from then on a failure leaves a mixture

  virtual Result<> offer(const device::Export& memory) = 0;
  /// `number` counts from 0, for messages.
  virtual Result<> reload(std::span<const TensorView> tensors, std::uint32_t number) = 0;
  virtual Result<> release() = 0;
  virtual Result<> finish() = 0;

  /// Whether the rank may run its post hook before it acknowledges the release: then that takes as long as a finish may.
  virtual bool may_finish_on_release() const { return false; }

  enum class Woken { acknowledged, by_waker };
  /// Waits for the acknowledgement of the step that was sent, or until one of `wakers` (file descriptors) is readable,
  /// or for the deadline. With no step outstanding it still watches the rank. Errors, each naming engine, device, step,
  /// pid and uid: timed_out (with the likely causes), peer_failed (its traceback as vendor text; it went away; a second
  /// process connected).
  virtual Result<Woken> wait(std::span<const int> wakers, Deadline deadline) = 0;

  /// After the last acknowledgement: waits until the rank has come back (acknowledged: offer() is next), or as wait()
  /// does. timed_out at the deadline, which says nothing against the rank; peer_failed when another process came. Where
  /// the protocol has no coming back, nobody does.
  virtual Result<Woken> wait_again(std::span<const int> wakers, Deadline deadline);

  /// The rank's hold on the offered memory; null when there is nothing to wait for, because a mapping keeps the memory
  /// (device::kept_by_mapping) or nobody was told how to open it. Asked when the session has ended, well or not.
  virtual std::shared_ptr<Hold> hold() const = 0;

  /// Sends the rank the error and hands the endpoint to the custodian. The session is dead after this. Never blocks.
  /// After the last acknowledgement too: the rank may be about to come back.
  virtual void fail(const Error& reason) noexcept = 0;

  /// As fail(), of a session that ended well and whose rank nobody serves any more, although it may come back: whoever
  /// does is told `reason`.
  virtual void retire(const Error& reason) noexcept { fail(reason); }

  /// Closes the endpoint at once, without the custodian: for a session whose endpoint nobody was told of.
  virtual void discard() noexcept = 0;
};

}  // namespace ckptd::ranks
