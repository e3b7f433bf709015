#include "daemon/ranks/checkpoint_engine/bound_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/random_name.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

using proto::checkpoint_engine::Envelope;

/// A reply is empty or a traceback. A peer that sends more is disconnected by ZeroMQ.
constexpr std::int64_t kReplyLimitBytes = 16 << 20;
constexpr int kRepliesQueued = 64;
/// Whoever may connect may do so without end. A session ends at the second peer.
constexpr std::size_t kRemembered = 64;

}  // namespace

Result<BoundSocket> BoundSocket::bind(std::shared_ptr<zmq::context_t> context,
                                      std::shared_ptr<SocketDirectory> directory, const std::string& name) {
  if (!directory->reserve(name))
    return fail(ErrorKind::conflict, "{} is bound by this daemon already", directory->endpoint_of(name));
  BoundSocket bound;
  bound.context_ = std::move(context);
  bound.directory_ = std::move(directory);
  bound.name_ = name;
  bound.endpoint_ = bound.directory_->endpoint_of(name);
  bound.envelope_ = Envelope(random_name(Envelope::kLetters));
  bound.directory_->remove_stale(name);
  try {
    bound.configure_and_bind();
  } catch (const zmq::error_t& error) {
    return std::unexpected(system_error(error.num(), fmt::format("bind {}", bound.endpoint_)));
  }
  CKPTD_TRY(bound.directory_->admit_group(name));
  return bound;
}

BoundSocket::~BoundSocket() {
  if (!directory_) return;  // moved from
  if (socket_) ::zmq_socket_monitor(socket_.handle(), nullptr, 0);
  monitor_.close();
  socket_.close();
  directory_->release(name_);
}

void BoundSocket::configure_and_bind() {
  socket_ = zmq::socket_t(*context_, zmq::socket_type::dealer);
  socket_.set(zmq::sockopt::linger, static_cast<int>(kLinger.count()));
  socket_.set(zmq::sockopt::maxmsgsize, kReplyLimitBytes);
  socket_.set(zmq::sockopt::rcvhwm, kRepliesQueued);
  watch_connections();
  socket_.bind(endpoint_);
}

void BoundSocket::watch_connections() {
  auto address = "inproc://rank-connections-" + random_name(16);
  constexpr int events = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
  if (::zmq_socket_monitor(socket_.handle(), address.c_str(), events) != 0) throw zmq::error_t();
  monitor_ = zmq::socket_t(*context_, zmq::socket_type::pair);
  monitor_.set(zmq::sockopt::linger, 0);
  // ZeroMQ's I/O thread writes events and would wait on a full queue, and with it every other session.
  monitor_.set(zmq::sockopt::rcvhwm, 0);
  monitor_.connect(address);
}

void BoundSocket::look() {
  zmq::message_t event, address;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (event.more()) (void)monitor_.recv(address, zmq::recv_flags::dontwait);
    if (event.size() != sizeof(std::uint16_t) + sizeof(std::int32_t)) continue;
    std::uint16_t what = 0;
    std::int32_t value = 0;
    std::memcpy(&what, event.data(), sizeof what);
    std::memcpy(&value, event.data<char>() + sizeof what, sizeof value);
    if (what == ZMQ_EVENT_ACCEPTED) accepted(value);
    if (what == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) greeted();
    if (what == ZMQ_EVENT_DISCONNECTED) disconnected(value);
  }
}

void BoundSocket::accepted(int fd) { connections_.push_back({fd, credentials_of(fd), 0}); }

/// The event does not say whose handshake it was. With two under way at once both count: a connection too many is an
/// error that names both, while a rank taken for a stranger could die unseen.
void BoundSocket::greeted() {
  for (auto& connection : connections_) {
    if (connection.greeted()) continue;
    connection.arrival = ++arrivals_;
    if (everybody_.size() < kRemembered) everybody_.push_back(connection.peer);
  }
  refresh_peers();
}

void BoundSocket::disconnected(int fd) {
  auto gone = std::ranges::find(connections_, fd, &Connection::fd);
  if (gone == connections_.end()) return;
  if (gone->greeted()) {
    last_gone_ = gone->peer;
    last_gone_at_ = Clock::now();
  }
  connections_.erase(gone);
  refresh_peers();
}

void BoundSocket::refresh_peers() {
  peers_.clear();
  for (const auto& connection : connections_)
    if (connection.greeted()) peers_.push_back(connection.peer);
}

bool BoundSocket::first_has_gone() const {
  return arrivals_ >= first_arrival_ && std::ranges::find(connections_, first_arrival_, &Connection::arrival) == connections_.end();
}

bool BoundSocket::is_left_to_a_newcomer() const {
  return peers_.size() == 1 && first_has_gone() && Clock::now() >= queue_gone_at();
}

void BoundSocket::start_over() {
  const auto newcomer = std::ranges::find_if(connections_, &Connection::greeted);
  if (newcomer != connections_.end()) first_arrival_ = newcomer->arrival;
  everybody_ = peers_;
  last_gone_.reset();
}

/// The descriptor is ZeroMQ's and may be closed by now, its number even be given to something else: so it is asked
/// whether it is a connection to this endpoint. The answer serves messages, never a decision about trust.
Peer BoundSocket::credentials_of(int fd) const {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 || address.sun_family != AF_UNIX)
    return {};
  auto path = directory_->path().native() + "/" + name_;
  if (path.compare(0, path.npos, address.sun_path, ::strnlen(address.sun_path, sizeof address.sun_path)) != 0)
    return {};
  ucred credentials{};
  length = sizeof credentials;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return {};
  return {credentials.pid, credentials.uid, process_with(credentials.pid).started};
}

bool BoundSocket::send(std::string_view message) {
  // Reading the events makes ZeroMQ take note of peers that have just connected, which sending alone may put off.
  if ((socket_.get(zmq::sockopt::events) & ZMQ_POLLOUT) == 0) return false;
  auto frame = envelope_.next_frame();
  using enum zmq::send_flags;
  if (!socket_.send(zmq::buffer(frame), sndmore | dontwait)) return false;
  // A message once begun is taken whole: its later frames go where the first one went.
  (void)socket_.send(zmq::message_t(), sndmore | dontwait);
  (void)socket_.send(zmq::buffer(message), dontwait);
  return true;
}

std::optional<BoundSocket::Reply> BoundSocket::receive() {
  zmq::message_t frame;
  if (!socket_.recv(frame, zmq::recv_flags::dontwait)) return std::nullopt;
  std::vector<zmq::message_t> frames;
  bool more = true;
  while (more) {
    more = frame.more();
    // One more than there should be is enough to know that there are too many.
    if (frames.size() <= Envelope::kFrames) frames.push_back(std::move(frame));
    if (more && !socket_.recv(frame, zmq::recv_flags::dontwait)) break;
  }
  std::vector<std::string_view> views;
  for (const auto& each : frames) views.push_back(each.to_string_view());
  const auto kind = envelope_.classify(views);
  return Reply{kind, kind == proto::checkpoint_engine::ReplyKind::malformed ? std::string() : frames[2].to_string()};
}

std::array<zmq::pollitem_t, 2> BoundSocket::poll_items(bool wants_to_send) {
  auto events = static_cast<short>(ZMQ_POLLIN | (wants_to_send ? ZMQ_POLLOUT : 0));
  return {zmq::pollitem_t{socket_.handle(), 0, events, 0}, zmq::pollitem_t{monitor_.handle(), 0, ZMQ_POLLIN, 0}};
}

}  // namespace ckptd::ranks::checkpoint_engine
