// What can be wrong with a worker's session, and the sentences for it.
#include <unistd.h>

#include "common/units.h"
#include "daemon/ranks/checkpoint_engine/worker_session.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

std::string show(const Peer& peer) {
  // The kernel tells no pid of a process outside our pid namespace.
  if (peer.pid == 0) return fmt::format("a process outside our pid namespace, uid {}", peer.uid);
  return fmt::format("pid {}, uid {}", peer.pid, peer.uid);
}

}  // namespace

Result<> WorkerSession::check_same_process() const {
  for (const auto& peer : socket_->peers())
    if (peer_ && (peer.pid != peer_->pid || peer.uid != peer_->uid || peer.started != peer_->started))
      return ckptd::fail(ErrorKind::peer_failed,
                         "another process ({}) connected to this endpoint after the rank had taken all weights: look for "
                         "two ranks on one device",
                         show(peer));
  return {};
}

Result<> WorkerSession::check_single_peer() const {
  const auto& peers = socket_->peers();
  bool another_came_later = socket_->arrivals() > 1 && sender_.state() != Sender::State::finished;
  if (peers.size() < 2 && !another_came_later) return {};
  // A rank that comes back may be connected anew before its last acknowledgement on the former connection is here.
  const bool ending = sender_.state() == Sender::State::releasing || sender_.state() == Sender::State::finishing;
  if (ending && check_same_process()) return {};
  if (peers.size() >= 2)
    return ckptd::fail(
        ErrorKind::peer_failed,
        "a second process connected to this endpoint: first {}, then {}; two ranks would get every other "
        "message each, look for two ranks on one device",
        show(peers[0]), show(peers[1]));
  return ckptd::fail(ErrorKind::peer_failed, "the rank went away and somebody else connected to this endpoint");
}

Result<> WorkerSession::check_still_there() const {
  if (!socket_->last_gone() || sender_.state() == Sender::State::finished) return {};
  if (sender_.state() == Sender::State::releasing || sender_.state() == Sender::State::released ||
      sender_.state() == Sender::State::finishing)
    return ckptd::fail(ErrorKind::peer_failed,
                       "the rank ({}) went away after the last bucket: its post hook failed or its process was killed; "
                       "the engine's log and answer tell which",
                       show(*socket_->last_gone()));
  return ckptd::fail(
      ErrorKind::peer_failed,
      "the rank ({}) went away: its process was killed, or its update ended with an error that it told only "
      "its own log and the engine's answer",
      show(*socket_->last_gone()));
}

Step WorkerSession::current_step() const {
  if (step_ == Step::offer && !peer_) return Step::connect;
  return step_;
}

std::string WorkerSession::step_text() const {
  if (current_step() != Step::reload) return std::string(name_of(current_step()));
  return fmt::format("reload {}", reload_number_);
}

Error WorkerSession::name_culprit(const Error& error) const {
  auto rank = peer_ ? fmt::format(", rank {}", show(*peer_)) : std::string();
  auto named =
      error.within(fmt::format("engine {}, device {}{}, step {}", open_.engine, open_.device, rank, step_text()))
          .with_fact("engine", open_.engine)
          .with_fact("device", open_.device)
          .with_fact("step", std::string(name_of(current_step())))
          .with_fact("endpoint", open_.endpoint);
  if (!peer_) return named;
  return std::move(named).with_fact("pid", std::to_string(peer_->pid)).with_fact("uid", std::to_string(peer_->uid));
}

Error WorkerSession::timed_out() const {
  if (sender_.state() == Sender::State::finished)
    return {ErrorKind::timed_out, "the rank has finished its session and did not come back for another"};
  auto waited = show_seconds(std::chrono::duration<double>(Clock::now() - step_begun_).count());
  if (current_step() != Step::connect)
    return {
        ErrorKind::timed_out,
        fmt::format("the rank is connected but has not answered for {}: it may still be busy (raise the time-out), be "
                    "stopped, or hang; look at its log and at where its process stands",
                    waited)};
  const auto& directory = socket_->directory();
  return {
      ErrorKind::timed_out,
      fmt::format("no rank connected to {} within {}. Likely causes: the engine has not come to the update yet, "
                  "because running requests hold its lock; the rank's user may not open the socket (the directory "
                  "{} has mode 0750 and the socket 0660, owner uid {}, group {}: run the rank under that uid or put its "
                  "user into the group); the rank is in a container without this directory; the rank's device is not {}",
                  open_.endpoint, waited, directory.path().native(), ::geteuid(), directory.group(), open_.device)};
}

Error WorkerSession::uid_hint(Error error) const {
  if (host_memory_ && peer_ && peer_->uid != ::geteuid())
    error.sentence +=
        fmt::format(" (host memory opens within one uid only: the rank has {}, ckptd {})", peer_->uid, ::geteuid());
  return error;
}

}  // namespace ckptd::ranks::checkpoint_engine
