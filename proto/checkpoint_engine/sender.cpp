#include "proto/checkpoint_engine/sender.h"

#include "common/utf8.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

/// What is worth keeping of a traceback stands at its end.
constexpr std::size_t kTracebackLimitBytes = 64 * 1024;
constexpr std::size_t kSummaryLimitBytes = 500;

std::string_view name_of(Sender::State state) {
  switch (state) {
    case Sender::State::idle: return "idle";
    case Sender::State::offering: return "offering";
    case Sender::State::ready: return "ready";
    case Sender::State::reloading: return "reloading";
    case Sender::State::releasing: return "releasing";
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
    case Sender::State::releasing: return "release the memory";
    default: return "finish the update";
  }
}

/// The last line that is not blank: Python puts the exception itself there.
std::string_view summary_of(std::string_view traceback) {
  auto end = traceback.find_last_not_of(" \t\r\n");
  if (end == std::string_view::npos) return "an empty traceback";
  traceback = traceback.substr(0, end + 1);
  auto line_break = traceback.find_last_of('\n');
  if (line_break != std::string_view::npos) traceback.remove_prefix(line_break + 1);
  return traceback;
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

Result<> Sender::received(std::string_view reply) {
  auto answered = state_;
  if (!outstanding()) {
    state_ = State::failed;
    return fail(ErrorKind::peer_failed, "the rank sent a reply of {} bytes that no step waits for (the session is {})",
                reply.size(), name_of(answered));
  }
  if (!reply.empty()) {
    state_ = State::failed;
    if (reply.size() > kTracebackLimitBytes) reply.remove_prefix(reply.size() - kTracebackLimitBytes);
    auto traceback = replace_invalid_utf8(reply);
    auto summary = shown(summary_of(traceback), kSummaryLimitBytes);
    return std::unexpected(Error{ErrorKind::peer_failed,
                                 fmt::format("the rank failed to {}: {}", task_in(answered), summary),
                                 std::move(traceback)});
  }
  switch (answered) {
    case State::releasing: state_ = State::released; break;
    case State::finishing: state_ = State::finished; break;
    default: state_ = State::ready; break;
  }
  return {};
}

}  // namespace ckptd::proto::checkpoint_engine
