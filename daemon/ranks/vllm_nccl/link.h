// The communicator that one device of ours has with all workers of one server: it is rank 0, and they follow.
//
//   make ──▶ open: all have joined, and one sum that everybody begins with ──▶ send ──▶ send ──▶ ...
//               └────────────────── the first error, or abort() ──────────────────┴──▶ dead
//
// A worker that does not come, or comes no further, is nothing that NCCL tells: every step is waited for in small pieces,
// and between two of them the caller is asked whether there is still something to wait for. A link that has failed is
// dead, and its successor begins with a new unique id.
//
// Used by one thread at a time, except for quiet() and hurry().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/collective/nccl/communicators.h"
#include "daemon/collective/nccl/library.h"
#include "daemon/collective/nccl/natives.h"
#include "daemon/device/device.h"

namespace ckptd::ranks::vllm_nccl {

class Link {
 public:
  /// Asked every few milliseconds while something is waited for. An error ends the wait with it.
  using GoOn = std::function<Result<>()>;

  /// Begins to join; blocks for nobody. The device outlives it.
  static Result<std::shared_ptr<Link>> make(std::shared_ptr<const collective::nccl::Library> library,
                                            const collective::nccl::Natives& natives,
                                            collective::nccl::Patience patience, device::Device& device,
                                            unsigned workers);
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  /// Ends as abort() does.
  ~Link();

  std::string_view unique_id() const { return {id_.internal, sizeof id_.internal}; }  ///< what the workers join with
  device::Device& device() const { return device_; }
  unsigned workers() const { return workers_; }

  /// Blocks until all workers have joined and have had their part of the first sum, by Patience::start.
  Result<> open(const GoOn& go_on);
  /// Blocks until the bytes have been read by NCCL, which is when all workers take part in the broadcast.
  Result<> send(device::Range bytes, const GoOn& go_on);

  /// Whether nothing has happened to it since. Blocks for a moment.
  Result<> check();
  /// Kills it, with what is under way (ncclCommAbort). Blocks until NCCL has let go, for at most twice Patience::stuck.
  void abort(const Error& reason) noexcept;
  /// Whether NCCL is certain not to read what was sent any more.
  bool quiet() const { return !busy_; }
  /// From now on nobody waits for it beyond `by`, see Communicators. Kills it.
  void hurry(Deadline by) noexcept;

 private:
  Link(device::Device& device, unsigned workers, collective::nccl::UniqueId id, collective::nccl::Patience patience)
      : device_(device), workers_(workers), id_(id), patience_(patience) {}

  Result<> launched(std::uint64_t number, const GoOn& go_on);
  Result<> carry_out(device::Range bytes, bool sum, const GoOn& go_on);

  device::Device& device_;
  const unsigned workers_;
  const collective::nccl::UniqueId id_;
  const collective::nccl::Patience patience_;
  std::unique_ptr<device::Allocation> first_sum_;
  std::unique_ptr<device::Stream> stream_;
  std::unique_ptr<device::Event> done_;
  void* native_ = nullptr;  ///< the stream, as NCCL takes it
  std::shared_ptr<collective::nccl::Communicators> communicators_;
  std::atomic<bool> busy_ = false;  ///< NCCL was given memory and has not been seen to be done with it
  bool ended_ = false;
};

}  // namespace ckptd::ranks::vllm_nccl
