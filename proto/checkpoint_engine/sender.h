// The sender's side of one session, dialect D (checkpoint-engine 0.4.0 and later), without sockets: what may be sent
// now, and what an answer means. Tested byte by byte; the driver in daemon/ranks moves frames and nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::proto::checkpoint_engine {

class Sender {
 public:
  enum class State {
    idle,         ///< nothing sent yet
    offering,     ///< message 1 sent
    ready,        ///< the buffer is open in the rank, no step outstanding
    reloading,    ///< a list sent
    releasing,    ///< the first None sent
    released,     ///< acknowledged: the rank holds no reference to the buffer
    finishing,    ///< the second None sent
    finished,     ///< acknowledged: the session is over
    failed,       ///< the rank answered with an error, or we gave up
  };

  State state() const { return state_; }
  bool outstanding() const;  ///< a step waits for its reply: nothing may be sent

  /// Each records that its message is sent now; internal when the step is not legal in this state (a bug of ours).
  Result<> sent_offer();
  Result<> sent_reload();
  Result<> sent_release();
  Result<> sent_finish();

  /// Takes the reply to the outstanding step. peer_failed with the traceback as vendor text when it is not empty.
  Result<> received(std::string_view reply);

  /// How a rank in this state is set free, see docs/worker_protocol.md "Abort": after the exception, one more message
  /// is owed when the rank answers (it failed to open the buffer and waits for an acknowledgement of its traceback).
  void abandon() { state_ = State::failed; }

 private:
  Result<> advance(State from, State to, std::string_view step);
  State state_ = State::idle;
};

}  // namespace ckptd::proto::checkpoint_engine
