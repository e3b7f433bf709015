// The sender's side of one session, without sockets: what may be sent now, and what an answer means, whichever dialect of
// the worker is on the other side. Tested byte by byte; the driver in daemon/ranks moves frames and nothing else.
//
// On the way of success the dialects differ in one thing: how many Nones end the worker's part. Nothing on the wire tells
// that before the first one is acknowledged. Then a worker that takes one closes its socket, and one that takes two waits.
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
    releasing,    ///< the first None sent; a worker that takes one runs its post hook now
    parting,      ///< acknowledged: whether the worker leaves or waits for a second None is being watched
    released,     ///< it waits: it holds no reference to the buffer, and its post hook is still to come
    finishing,    ///< the second None sent
    finished,     ///< the session is over, and the post hook has run
    failed,       ///< the rank answered with an error, or we gave up
  };

  State state() const { return state_; }
  bool outstanding() const;  ///< a step waits for its reply: nothing may be sent

  /// Each records that its message is sent now; internal when the step is not legal in this state (a bug of ours).
  Result<> sent_offer();
  Result<> sent_reload();
  Result<> sent_release();
  Result<> sent_finish();

  /// The worker is known to take two Nones: an acknowledged release needs no watching.
  void expect_two_nones() { two_nones_ = true; }
  /// What was seen of a worker that is parting; internal in any other state.
  Result<> left();    ///< it takes one None: the session is over
  Result<> stayed();  ///< it takes two

  /// Takes the reply to the outstanding step. peer_failed when it is not empty, see error_reply.h.
  Result<> received(std::string_view reply);

  /// How a rank in this state is set free, see docs/worker_protocol.md "Abort": after the exception, one more message
  /// is owed when the rank answers (it failed to open the buffer and waits for an acknowledgement of its traceback).
  void abandon() { state_ = State::failed; }

 private:
  Result<> advance(State from, State to, std::string_view step);
  State state_ = State::idle;
  bool two_nones_ = false;
};

}  // namespace ckptd::proto::checkpoint_engine
