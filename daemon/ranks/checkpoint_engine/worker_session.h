// A session with one worker of the checkpoint-engine protocol: moves frames between a bound socket and the state
// machine of proto/checkpoint_engine, and puts names to what goes wrong.
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
#include "daemon/ranks/receipts/receipts.h"
#include "daemon/ranks/session.h"
#include "proto/checkpoint_engine/sender.h"

namespace ckptd::ranks::checkpoint_engine {

/// The message that ends a rank's part, whatever it waits for.
std::string farewell(const Error& reason);

class WorkerSession : public Session {
 public:
  static constexpr Traits kTraits{.run_alignment = 256, .reloads_in_flight = 1};

  WorkerSession(BoundSocket socket, std::shared_ptr<Custodian> custodian, std::shared_ptr<Receipts> receipts,
                std::string engine, std::string device);
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
  Result<Woken> wait(std::span<const int> wakers, Deadline deadline) override;
  std::shared_ptr<Hold> hold() const override;
  void fail(const Error& reason) noexcept override;
  void discard() noexcept override;

 private:
  using Sender = proto::checkpoint_engine::Sender;

  Result<std::string> offer_message(const device::Export& memory);
  Result<> begin(Step step, Result<> (Sender::*sent)(), std::string message);
  Result<Woken> wait_for_rank(std::span<const int> wakers, Deadline deadline);
  Result<bool> look();
  Result<bool> take_reply();
  Result<> check_single_peer() const;
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
  std::shared_ptr<Custodian> custodian_;
  std::shared_ptr<Receipts> receipts_;
  OpenEndpoint open_;
  Sender sender_;
  Step step_ = Step::offer;
  std::uint32_t reload_number_ = 0;
  std::optional<std::string> pending_;  ///< begun, but no rank was there to take it
  Clock::time_point step_begun_ = Clock::now();
  std::optional<Peer> peer_;
  std::shared_ptr<WorkerHold> hold_;  ///< of memory that a mapping does not keep
  bool memory_told_ = false;          ///< the offer has left
  bool host_memory_ = false;
  bool touched_ = false;
};

}  // namespace ckptd::ranks::checkpoint_engine
