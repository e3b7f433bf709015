#include "daemon/ranks/checkpoint_engine/worker_session.h"

#include <exception>
#include <utility>
#include <variant>

#include "daemon/ranks/checkpoint_engine/wire_types.h"
#include "proto/checkpoint_engine/messages.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

namespace messages = proto::checkpoint_engine;

/// A rank that was sent its last None ends its session well, whatever becomes of the update, and may come back for another.
/// Which None is the last is not known of every rank.
bool may_come_back(messages::Sender::State state) {
  using enum messages::Sender::State;
  return state == releasing || state == parting || state == released || state == finishing || state == finished;
}

/// Of a peer that sends them without end: then the deadline and the wakers are looked at.
constexpr int kStaleAtOnce = 64;

}  // namespace

std::string farewell(const Error& reason) {
  return messages::exception(fmt::format("ckptd ended this weight update: {}", reason.sentence));
}

WorkerSession::WorkerSession(BoundSocket socket, Shared shared, std::string engine, std::string device)
    : socket_(std::move(socket)),
      shared_(std::move(shared)),
      open_{socket_->endpoint(), std::move(engine), std::move(device)} {}

WorkerSession::~WorkerSession() {
  if (sender_.state() != Sender::State::finished) fail(Error{ErrorKind::cancelled, "the sender gave up"});
}

Result<> WorkerSession::begin(Step step, Result<> (Sender::*sent)(), std::string message) {
  if (!socket_)
    return ckptd::fail(ErrorKind::internal, "step {} after the end of the session with device {}", name_of(step),
                       open_.device);
  if (auto legal = (sender_.*sent)(); !legal) return std::unexpected(name_culprit(legal.error()));
  step_ = step;
  step_begun_ = Clock::now();
  pending_ = std::move(message);
  try {
    // What was meant for a rank that has gone must not wait for the next one: a None would end that one's session.
    if (step != Step::offer)
      if (auto there = check_peers(); !there) return std::unexpected(name_culprit(there.error()));
    send_pending();
  } catch (const std::exception& error) {
    return std::unexpected(name_culprit({ErrorKind::io, fmt::format("the step could not be sent: {}", error.what())}));
  }
  return {};
}

Result<> WorkerSession::offer(const device::Export& memory) {
  host_memory_ = std::holds_alternative<device::HostExport>(memory);
  auto message = offer_message(memory);
  if (!message) return std::unexpected(name_culprit(message.error()));
  return begin(Step::offer, &Sender::sent_offer, *std::move(message));
}

Result<std::string> WorkerSession::offer_message(const device::Export& memory) {
  if (const auto* host = std::get_if<device::HostExport>(&memory)) return messages::offer_file(host->path, host->bytes);
  const auto& cuda = std::get<device::CudaExport>(memory);
  hold_ = std::make_shared<WorkerHold>(CKPTD_TRY(shared_.receipts->take()), open_.engine, open_.device);
  return messages::offer_cuda(cuda.handle, cuda.bytes, hold_->receipt().file(), hold_->receipt().index());
}

Result<> WorkerSession::reload(std::span<const TensorView> tensors, std::uint32_t number) {
  auto message = CKPTD_TRY(reload_message(tensors));
  reload_number_ = number;
  CKPTD_TRY(begin(Step::reload, &Sender::sent_reload, std::move(message)));
  touched_ = true;
  return {};
}

Result<> WorkerSession::release() {
  if (!may_finish_on_release()) sender_.expect_two_nones();
  return begin(Step::release, &Sender::sent_release, messages::none());
}

Result<> WorkerSession::finish() {
  if (!std::exchange(finished_on_release_, false)) return begin(Step::finish, &Sender::sent_finish, messages::none());
  step_ = Step::finish;
  finish_is_due_ = true;
  return {};
}

bool WorkerSession::may_finish_on_release() const { return !peer_ || !shared_.known_workers->take_two_nones(*peer_); }

Result<Session::Woken> WorkerSession::wait(std::span<const int> wakers, Deadline deadline) {
  if (std::exchange(finish_is_due_, false)) return Woken::acknowledged;
  return wait_until(&WorkerSession::look, wakers, deadline);
}

Result<Session::Woken> WorkerSession::wait_again(std::span<const int> wakers, Deadline deadline) {
  if (sender_.state() != Sender::State::finished)
    return ckptd::fail(ErrorKind::internal, "wait for the return of a rank on {} that has not finished", open_.device);
  return wait_until(&WorkerSession::look_for_return, wakers, deadline);
}

Result<Session::Woken> WorkerSession::wait_until(Result<bool> (WorkerSession::*look)(), std::span<const int> wakers,
                                                 Deadline deadline) try {
  if (!socket_)
    return ckptd::fail(ErrorKind::internal, "wait after the end of the session with device {}", open_.device);
  // Each way to be woken leads to one more look before it is returned: an acknowledgement that is here comes first.
  bool woken = false, expired = false;
  for (;;) {
    auto here = (this->*look)();
    if (!here) return std::unexpected(name_culprit(here.error()));
    if (*here) return Woken::acknowledged;
    if (woken) return Woken::by_waker;
    // A rank that is parting has answered in time, and that it does is known at the end of a wait of its own.
    const bool parting = sender_.state() == Sender::State::parting;
    if (expired && !parting) return std::unexpected(name_culprit(timed_out()));
    expired = deadline.passed();
    const Deadline looks_again(looks_again_at());
    woken = poll(wakers, parting ? looks_again : deadline.earlier(looks_again));
  }
} catch (const std::exception& error) {
  return std::unexpected(name_culprit({ErrorKind::io, fmt::format("its socket failed: {}", error.what())}));
}

/// When something is to be seen although nothing happens.
Clock::time_point WorkerSession::looks_again_at() const {
  if (sender_.state() == Sender::State::parting) return parting_until_;
  if (sender_.state() == Sender::State::finished && socket_->queue_gone_at() > Clock::now())
    return socket_->queue_gone_at();
  return Clock::time_point::max();
}

/// Everything that has happened since the last look, in an order that lets the most telling error win: a rank that
/// wrote its traceback and died has left the traceback to be read. So has one that finished and came back at once.
Result<bool> WorkerSession::look() {
  socket_->look();
  note_peers();
  const bool may_leave = sender_.state() == Sender::State::releasing || sender_.state() == Sender::State::finishing;
  if (may_leave && CKPTD_TRY(take_reply())) return true;
  if (sender_.state() == Sender::State::parting) return take_parting();
  CKPTD_TRY(check_single_peer());
  send_pending();
  if (!may_leave && CKPTD_TRY(take_reply())) return true;
  CKPTD_TRY(check_still_there());
  return false;
}

/// A worker before 0.4.0 closes its socket right after its acknowledgement of the first None. It has also left when its
/// process is here already for another session: then nothing more must be sent until the former connection has gone.
Result<bool> WorkerSession::take_parting() {
  CKPTD_TRY(check_same_process());
  if (socket_->first_has_gone() || socket_->arrivals() > 1) {
    finished_on_release_ = true;
    CKPTD_TRY(sender_.left());
    return true;
  }
  if (Clock::now() < parting_until_) return false;
  CKPTD_TRY(sender_.stayed());
  return true;
}

Result<bool> WorkerSession::look_for_return() {
  socket_->look();
  CKPTD_TRY(check_same_process());
  if (!socket_->is_left_to_a_newcomer()) return false;
  socket_->start_over();
  sender_ = Sender();
  step_ = Step::offer;
  hold_.reset();
  memory_told_ = false;
  return true;
}

void WorkerSession::send_pending() {
  if (!pending_ || !socket_->send(*pending_)) return;
  pending_.reset();
  memory_told_ = true;  // the offer is the first of all messages
}

void WorkerSession::note_peers() {
  if (!peer_ && !socket_->peers().empty()) peer_ = socket_->peers().front();
  if (hold_) hold_->met(socket_->everybody());
}

Result<bool> WorkerSession::take_reply() {
  int stale = 0;
  while (auto reply = socket_->receive()) {
    if (reply->kind == messages::ReplyKind::stale) {
      if (++stale == kStaleAtOnce) return false;  // what else there is makes the next poll return at once
      continue;
    }
    if (reply->kind == messages::ReplyKind::malformed)
      return ckptd::fail(ErrorKind::peer_failed,
                         "the process on this endpoint does not speak the protocol of a rank: it "
                         "sent something that is no reply");
    if (auto received = sender_.received(reply->body); !received) {
      // What raised is what should have mapped the memory: there is nothing to be unmapped.
      if (step_ == Step::offer && socket_->everybody().size() == 1) hold_.reset();
      return std::unexpected(step_ == Step::offer ? uid_hint(received.error()) : received.error());
    }
    if (hold_ && step_ == Step::offer) hold_->opened();
    if (step_ == Step::finish && peer_) shared_.known_workers->took_two_nones(*peer_);
    if (sender_.state() != Sender::State::parting) return true;
    parting_until_ = Clock::now() + shared_.parting_wait;
    return false;
  }
  return false;
}

Result<> WorkerSession::check_peers() {
  socket_->look();
  note_peers();
  CKPTD_TRY(check_single_peer());
  return check_still_there();
}

bool WorkerSession::poll(std::span<const int> wakers, Deadline deadline) {
  std::vector<zmq::pollitem_t> items;
  for (int fd : wakers) items.push_back({nullptr, fd, ZMQ_POLLIN, 0});
  for (const auto& item : socket_->poll_items(pending_.has_value())) items.push_back(item);
  try {
    zmq::poll(items, std::chrono::milliseconds(deadline.poll_timeout_ms()));
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) throw;
    return false;
  }
  for (std::size_t i = 0; i < wakers.size(); ++i)
    if (items[i].revents != 0) return true;
  return false;
}

/// The last look: who comes to the custodian is told of no memory.
void WorkerSession::see_who_came() noexcept try {
  socket_->look();
  note_peers();
} catch (const std::exception&) {  // then those count who were seen so far
}

std::shared_ptr<Hold> WorkerSession::hold() const { return memory_told_ ? hold_ : nullptr; }

void WorkerSession::fail(const Error& reason) noexcept try {
  if (!socket_) return;
  see_who_came();
  auto socket = std::move(*socket_);
  socket_.reset();
  pending_.reset();
  const auto stay = may_come_back(sender_.state()) ? shared_.stay_for_return : std::chrono::milliseconds(0);
  sender_.abandon();
  shared_.custodian->take({std::move(socket), open_, farewell(reason), stay});
} catch (const std::exception&) {
  socket_.reset();  // out of memory: what can still be done is to let the endpoint go
}

void WorkerSession::retire(const Error& reason) noexcept {
  open_.failed = false;
  fail(reason);
}

void WorkerSession::discard() noexcept {
  sender_.abandon();
  socket_.reset();
}

}  // namespace ckptd::ranks::checkpoint_engine
