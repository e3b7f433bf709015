#include "proto/checkpoint_engine/sender.h"

#include "proto/checkpoint_engine/error_reply.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

std::string_view name_of(Sender::State state) {
  switch (state) {
    case Sender::State::idle: return "idle";
    case Sender::State::offering: return "offering";
    case Sender::State::ready: return "ready";
    case Sender::State::reloading: return "reloading";
    case Sender::State::releasing: return "releasing";
    case Sender::State::parting: return "parting";
    case Sender::State::released: return "released";
    case Sender::State::finishing: return "finishing";
    case Sender::State::finished: return "finished";
    case Sender::State::failed: return "failed";
  }
  return "unknown";
}

std::string_view task_in(Sender::State state) {
  switch (state) {
    case Sender::State::offering: return "open the offered memory";
    case Sender::State::reloading: return "load a list of tensors";
    case Sender::State::releasing: return "release the memory, or in its post hook";
    default: return "finish the update";
  }
}

}  // namespace

bool Sender::outstanding() const {
  return state_ == State::offering || state_ == State::reloading || state_ == State::releasing ||
         state_ == State::finishing;
}

Result<> Sender::advance(State from, State to, std::string_view step) {
  if (state_ != from)
    return fail(ErrorKind::internal, "step {} is not legal while the session is {}; it belongs after {}", step,
                name_of(state_), name_of(from));
  state_ = to;
  return {};
}

Result<> Sender::sent_offer() { return advance(State::idle, State::offering, "offer"); }
Result<> Sender::sent_reload() { return advance(State::ready, State::reloading, "reload"); }
Result<> Sender::sent_release() { return advance(State::ready, State::releasing, "release"); }
Result<> Sender::sent_finish() { return advance(State::released, State::finishing, "finish"); }
Result<> Sender::left() { return advance(State::parting, State::finished, "leave"); }
Result<> Sender::stayed() { return advance(State::parting, State::released, "stay"); }

Result<> Sender::received(std::string_view reply) {
  auto answered = state_;
  if (!outstanding()) {
    state_ = State::failed;
    return fail(ErrorKind::peer_failed, "the rank sent a reply of {} bytes that no step waits for (the session is {})",
                reply.size(), name_of(answered));
  }
  if (!reply.empty()) {
    state_ = State::failed;
    auto told = read_error_reply(reply);
    return std::unexpected(Error{ErrorKind::peer_failed,
                                 fmt::format("the rank failed to {}: {}", task_in(answered), told.summary),
                                 std::move(told.detail)});
  }
  switch (answered) {
    case State::releasing: state_ = two_nones_ ? State::released : State::parting; break;
    case State::finishing: state_ = State::finished; break;
    default: state_ = State::ready; break;
  }
  return {};
}

}  // namespace ckptd::proto::checkpoint_engine
