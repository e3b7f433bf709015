// One bound endpoint: a ZeroMQ socket, the monitor that tells who connects and goes, and the file in the directory.
//
// The socket is a DEALER that writes a REQ's envelope by hand. A REQ would drop a reply that comes after a newer
// request, and with it an error; a DEALER hands over everything, and the envelope tells what each reply answers.
//
// Used by one thread at a time; handing it to another thread needs a lock or the like in between. Nothing blocks.
// Functions throw zmq::error_t and std::bad_alloc: the room's own boundary turns them into errors. Closing removes the
// file; what was sent still reaches a connected rank within kLinger.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/ranks/checkpoint_engine/socket_directory.h"
#include "daemon/ranks/session.h"
#include "proto/checkpoint_engine/envelope.h"

namespace ckptd::ranks::checkpoint_engine {

class BoundSocket {
 public:
  static constexpr std::chrono::milliseconds kLinger{250};

  /// Binds directory/name, which replaces a stale file there.
  static Result<BoundSocket> bind(std::shared_ptr<zmq::context_t> context, std::shared_ptr<SocketDirectory> directory,
                                  const std::string& name);
  BoundSocket(BoundSocket&&) noexcept = default;
  BoundSocket& operator=(BoundSocket&&) = delete;
  ~BoundSocket();

  const std::string& endpoint() const { return endpoint_; }
  const SocketDirectory& directory() const { return *directory_; }

  /// How long after a disconnect messages are sure to go to those who are still there: ZeroMQ tells of it just before it
  /// takes the connection's queue away.
  static constexpr std::chrono::milliseconds kQueueGone{10};

  /// Takes note of everybody who came or went since the last call.
  void look();
  const std::vector<Peer>& peers() const { return peers_; }  ///< connected now, in the order in which they came

  // Since the start, or since the last start_over().
  std::uint64_t arrivals() const { return arrivals_ - first_arrival_ + 1; }
  const std::vector<Peer>& everybody() const { return everybody_; }  ///< who ever was a peer
  const std::optional<Peer>& last_gone() const { return last_gone_; }
  bool first_has_gone() const;  ///< the first who came

  /// Whether all who came have gone but one who came later, long enough ago for kQueueGone.
  bool is_left_to_a_newcomer() const;
  /// When that may become true although nothing happens.
  Clock::time_point queue_gone_at() const { return last_gone_at_ + kQueueGone; }
  /// Forgets all but that one.
  void start_over();

  /// False when no peer can take it now; nothing is queued for a peer that may come.
  bool send(std::string_view message);

  struct Reply {
    proto::checkpoint_engine::ReplyKind kind;
    std::string body;
  };
  std::optional<Reply> receive();

  /// For zmq::poll: the socket, then the monitor.
  std::array<zmq::pollitem_t, 2> poll_items(bool wants_to_send);

 private:
  /// A connection is a peer once ZeroMQ's handshake is done: what merely opens the socket and leaves is nobody.
  struct Connection {
    int fd = -1;
    Peer peer;
    std::uint64_t arrival = 0;  ///< its number, from 1, once greeted
    bool greeted() const { return arrival != 0; }
  };

  BoundSocket() = default;
  void configure_and_bind();
  void watch_connections();
  void accepted(int fd);
  void greeted();
  void disconnected(int fd);
  void refresh_peers();
  Peer credentials_of(int fd) const;

  std::shared_ptr<zmq::context_t> context_;
  std::shared_ptr<SocketDirectory> directory_;
  std::string name_, endpoint_;
  zmq::socket_t socket_, monitor_;
  proto::checkpoint_engine::Envelope envelope_;
  std::vector<Connection> connections_;
  std::vector<Peer> peers_, everybody_;
  std::uint64_t arrivals_ = 0, first_arrival_ = 1;
  std::optional<Peer> last_gone_;
  Clock::time_point last_gone_at_;
};

}  // namespace ckptd::ranks::checkpoint_engine
