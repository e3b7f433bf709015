// Gives a vLLM server weights by its own weight transfer: the calls that all ways of it have in common, in their order.
// docs/vllm_weight_transfer.md describes every call. What a backend adds is how workers come to the bytes.
//
// What outlives an update that fails is what the server makes of it: see close() in the source.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/ranks/transfer.h"
#include "daemon/ranks/vllm/meeting.h"
#include "proto/answer/answer.h"
#include "proto/vllm/weight_transfer/answers.h"
#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::ranks::vllm {

struct Reply {
  unsigned status = 0;
  std::string body;
  proto::answer::Key sent = proto::answer::Key::none;
};

/// Sends one request to the server, with whatever key it wants, and blocks for the answer. Its errors say who was asked.
using Send = std::function<Result<Reply>(std::string_view method, std::string_view target, std::string body,
                                         Deadline deadline, std::stop_token stop)>;

/// A bucket's tensors as the engine is told of them. Views of the bucket.
std::vector<proto::vllm::weight_transfer::PackedTensor> packed_tensors(const Meeting::Gathered& bucket);

/// Of one update. Everything protected is called on the thread of run(), unless it says so.
class Conversation : public Transfer {
 public:
  struct Terms {
    std::string engine;
    std::string weight_version = {};         ///< the label that the server is told at the end; empty: none
    std::chrono::milliseconds close{8'000};  ///< for closing what a failed update left open in the server
  };

  Traits traits() const override;
  Result<> check_carriable(const weights::Manifest& manifest) const override;
  Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) override;

 protected:
  Conversation(Terms terms, Send send);

  /// Makes the server ready to be started. Nothing that is asked or said here touches the model.
  virtual Result<> begin() = 0;
  /// Every worker has the bucket when this returns.
  virtual Result<> give(const Meeting::Gathered& bucket) = 0;
  virtual std::size_t workers() const = 0;
  /// The update has failed, and nobody is in a call of ours any more. What to say of it beside the error; empty: nothing.
  virtual std::string give_up(const Error& reason);

  // What begin() is made of.
  std::optional<unsigned> told_workers(const Reply& world) const;
  /// unsupported when the server says that it was started for something else. Nothing when it does not say.
  Result<std::optional<proto::vllm::weight_transfer::Config>> ask_for(std::string_view backend);
  Result<> check_start_route();

  /// May be called on another thread while the one of run() waits for that. `named`: what who waits for it is told, if that
  /// is more than method and target.
  Result<Reply> call(std::string_view method, std::string_view target, std::string body, Deadline deadline,
                     std::stop_token stop, std::string named = {});
  Result<> post(std::string_view target, std::string body);
  Result<Reply> ask(std::string_view target);
  /// What was read of an answer, with whose it was. What a call itself says has that already.
  Result<> about(Result<> read) const;

  const Terms& terms() const { return terms_; }
  const std::shared_ptr<Meeting>& meeting() const { return meeting_; }
  const std::vector<std::string>& devices() const { return devices_; }
  Deadline deadline() const { return deadline_; }
  const std::stop_token& stopped() const { return stop_; }
  bool answered() const { return answered_; }  ///< the last call

 private:
  Result<std::string> converse();
  Result<std::uint32_t> give_all(std::string_view start_target);
  Result<> start(std::string_view target);
  std::string close();
  Result<> close_by(Deadline deadline);

  const Terms terms_;
  const Send send_;
  const std::shared_ptr<Meeting> meeting_;
  std::vector<std::string> devices_;
  Deadline deadline_ = Deadline::in({});
  std::stop_token stop_;
  bool drafts_ = false;   ///< everything is given a second time, to the draft model
  bool open_ = false;     ///< the server was told to start, and not seen to finish
  bool answered_ = true;  ///< the last call
};

}  // namespace ckptd::ranks::vllm
