// A session with one worker of the checkpoint-engine protocol, of any dialect: moves frames between a bound socket and the
// state machine of proto/checkpoint_engine, and puts names to what goes wrong.
//
// A worker before 0.4.0 finishes on the first None and leaves. Whether this one does is seen on the socket; its finish()
// then sends nothing and is acknowledged at once.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/ranks/checkpoint_engine/bound_socket.h"
#include "daemon/ranks/checkpoint_engine/custodian.h"
#include "daemon/ranks/checkpoint_engine/hold.h"
#include "daemon/ranks/checkpoint_engine/known_workers.h"
#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/session.h"
#include "proto/checkpoint_engine/sender.h"

namespace ckptd::ranks::checkpoint_engine {

/// The message that ends a rank's part, whatever it waits for.
std::string farewell(const Error& reason);

/// How long a worker that has acknowledged the first None may take to close its socket before it counts as one that waits
/// for a second. It closes in the same breath; a second is for a machine that is short of cores. Spent once for each process
/// of checkpoint-engine 0.4.0 and later.
inline constexpr std::chrono::milliseconds kPartingWait{1'000};

/// What all sessions share.
struct Shared {
  std::shared_ptr<Custodian> custodian;
  std::shared_ptr<Receipts> receipts;
  std::shared_ptr<KnownWorkers> known_workers;
  std::chrono::milliseconds parting_wait = kPartingWait;
  std::chrono::milliseconds stay_for_return = kStayForReturn;
};

class WorkerSession : public Session {
 public:
  static constexpr Traits kTraits{.run_alignment = 256, .reloads_in_flight = 1};

  WorkerSession(BoundSocket socket, Shared shared, std::string engine, std::string device);
  ~WorkerSession() override;

  const std::string& endpoint() const override { return open_.endpoint; }
  const std::string& device() const override { return open_.device; }
  Traits traits() const override { return kTraits; }
  std::optional<Peer> peer() const override { return peer_; }
  bool touched() const override { return touched_; }

  Result<> offer(const device::Export& memory) override;
  Result<> reload(std::span<const TensorView> tensors, std::uint32_t number) override;
  Result<> release() override;
  Result<> finish() override;
  bool may_finish_on_release() const override;
  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override;
  Result<Woken> wait_again(std::span<const int> wakers, Deadline deadline) override;
  std::shared_ptr<Hold> hold() const override;
  void fail(const Error& reason) noexcept override;
  void retire(const Error& reason) noexcept override;
  void discard() noexcept override;

 private:
  using Sender = proto::checkpoint_engine::Sender;

  Result<std::string> offer_message(const device::Export& memory);
  Result<> begin(Step step, Result<> (Sender::*sent)(), std::string message);
  /// Looks until there is what was waited for, and once more after whatever ended the wait.
  Result<Woken> wait_until(Result<bool> (WorkerSession::*look)(), std::span<const int> wakers, Deadline deadline);
  Result<bool> look();
  Result<bool> look_for_return();
  Result<bool> take_reply();
  Result<bool> take_parting();
  Clock::time_point looks_again_at() const;
  Result<> check_peers();
  Result<> check_single_peer() const;
  Result<> check_same_process() const;
  Result<> check_still_there() const;
  bool poll(std::span<const int> wakers, Deadline deadline);
  void send_pending();
  void note_peers();
  void see_who_came() noexcept;

  Step current_step() const;
  std::string step_text() const;
  Error name_culprit(const Error& error) const;
  Error timed_out() const;
  Error uid_hint(Error error) const;

  std::optional<BoundSocket> socket_;  ///< empty once given to the custodian or closed
  Shared shared_;
  OpenEndpoint open_;
  Sender sender_;
  Step step_ = Step::offer;
  std::uint32_t reload_number_ = 0;
  std::optional<std::string> pending_;  ///< begun, but no rank was there to take it
  Clock::time_point step_begun_ = Clock::now();
  Clock::time_point parting_until_;  ///< while the sender is parting
  bool finished_on_release_ = false, finish_is_due_ = false;  ///< the latter: finish() was called and not yet awaited
  std::optional<Peer> peer_;
  std::shared_ptr<WorkerHold> hold_;  ///< of memory that a mapping does not keep
  bool memory_told_ = false;          ///< the offer has left
  bool host_memory_ = false;
  bool touched_ = false;
};

}  // namespace ckptd::ranks::checkpoint_engine
