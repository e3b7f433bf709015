// Peers that are no rank, or a rank that behaves as none should.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <zmq.hpp>

#include "proto/checkpoint_engine/messages.h"
#include "tests/contract/session/harness.h"

namespace ckptd::test {
namespace {

using ranks::Session;
using namespace std::chrono_literals;

struct Setup {
  TemporaryDirectory directory;
  std::unique_ptr<ranks::Endpoints> endpoints = make_backend(directory.path() / "r");
  Memory memory;
  std::unique_ptr<Session> session = *endpoints->open("sglang-0", "HOST-3");
};

/// A peer that sees and writes the envelope, which a REP keeps to itself.
class RawPeer {
 public:
  explicit RawPeer(const std::string& endpoint) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 60'000);
    socket_.connect(endpoint);
  }
  std::vector<std::string> receive() {
    std::vector<std::string> frames;
    zmq::message_t frame;
    do {
      if (!socket_.recv(frame)) throw std::runtime_error("nothing came");
      frames.push_back(frame.to_string());
    } while (frame.more());
    return frames;
  }
  void send(const std::vector<std::string>& frames) {
    for (std::size_t i = 0; i < frames.size(); ++i)
      socket_.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
};

UniqueFd open_and_say_nothing(const std::string& endpoint) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::strcpy(address.sun_path, endpoint.substr(6).c_str());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  return fd;
}

}  // namespace

TEST_CASE("a reply to another message than the last is dropped, and the right one counts") {
  Setup setup;
  RawPeer peer(setup.session->endpoint());
  REQUIRE(setup.session->offer(setup.memory.exported()));
  (void)acknowledged(*setup.session, 50ms);
  auto offer = peer.receive();
  REQUIRE(offer.size() == 3);
  CHECK(offer[1].empty());
  CHECK(offer[2] ==
        proto::checkpoint_engine::offer_file(std::get<device::HostExport>(setup.memory.exported()).path, 1 << 16));
  peer.send({"an older daemon's", "", ""});
  peer.send({offer[0], "", ""});
  REQUIRE(acknowledged(*setup.session));
  REQUIRE(reload_two(*setup.session));
  auto list = peer.receive();
  CHECK(list[0] != offer[0]);
  peer.send({offer[0], "", ""});  // a second acknowledgement of the offer must not pass for one of the list
  auto waited = acknowledged(*setup.session, 100ms);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::timed_out);
  peer.send({list[0], "", ""});
  CHECK(acknowledged(*setup.session));
}

TEST_CASE("what is no reply is an error, not a crash") {
  using Frames = std::vector<std::string>;
  auto frames =
      GENERATE(Frames{"x"}, Frames{"x", "y", "z"}, Frames{"", ""}, Frames{"a", "", "b", "c"}, Frames(5000, "many"));
  Setup setup;
  RawPeer peer(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::offered));
  peer.receive();
  peer.send(frames);
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
  CHECK(mentions(waited.error(), "HOST-3"));
}

TEST_CASE("an acknowledgement that nothing asked for is an error") {
  Setup setup;
  RawPeer peer(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::offered));
  auto offer = peer.receive();
  peer.send({offer[0], "", ""});
  REQUIRE(acknowledged(*setup.session));
  peer.send({offer[0], "", ""});
  auto waited = setup.session->wait({}, Deadline::in(kPatience));
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
}

TEST_CASE("a traceback of any bytes and size becomes text of bounded size") {
  Setup setup;
  RawPeer peer(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::offered));
  auto offer = peer.receive();
  peer.send({offer[0], "", std::string(1 << 20, '\xff') + "\nValueError: the end \xf0\x9f\x98"});
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(mentions(waited.error(), "ValueError: the end"));
  CHECK(waited.error().vendor.size() < (1 << 18));
  CHECK(waited.error().vendor.find('\xff') == std::string::npos);
}

TEST_CASE("a reply that is far too large ends the connection, not the daemon") {
  Setup setup;
  RawPeer peer(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::offered));
  auto offer = peer.receive();
  peer.send({offer[0], "", std::string(17 << 20, 'x')});
  auto waited = acknowledged(*setup.session);
  REQUIRE_FALSE(waited);
  CHECK(waited.error().kind == ErrorKind::peer_failed);
}

TEST_CASE("a traceback that was written just before the end of the rank is read") {
  for (int i = 0; i < 50; ++i) {
    Setup setup;
    auto peer = std::async(std::launch::async, [endpoint = setup.session->endpoint()] {
      zmq::context_t context;
      zmq::socket_t socket(context, zmq::socket_type::rep);
      socket.set(zmq::sockopt::rcvtimeo, 60'000);
      socket.set(zmq::sockopt::linger, 60'000);
      socket.connect(endpoint);
      zmq::message_t message;
      if (socket.recv(message))
        socket.send(zmq::str_buffer("Traceback\nMemoryError: told at the end"), zmq::send_flags::none);
    });
    REQUIRE(setup.session->offer(setup.memory.exported()));
    auto waited = acknowledged(*setup.session);
    REQUIRE_FALSE(waited);
    CHECK(mentions(waited.error(), "MemoryError: told at the end"));
    setup.session.reset();
    peer.get();
  }
}

TEST_CASE("who opens the socket and says nothing is nobody, before a rank and beside one") {
  Setup setup;
  open_and_say_nothing(setup.session->endpoint());
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::ready));
  for (int i = 0; i < 20; ++i) open_and_say_nothing(setup.session->endpoint());
  REQUIRE(reload_two(*setup.session));
  REQUIRE(acknowledged(*setup.session));
  auto silent = open_and_say_nothing(setup.session->endpoint());
  REQUIRE(setup.session->release());
  REQUIRE(acknowledged(*setup.session));
  REQUIRE(setup.session->finish());
  REQUIRE(acknowledged(*setup.session));
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->ok);
}

TEST_CASE("thousands of connections to one endpoint that nobody watches do not stop another session") {
  Setup setup;
  auto other = *setup.endpoints->open("sglang-1", "HOST-4");
  for (int i = 0; i < 3000; ++i) open_and_say_nothing(other->endpoint());
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::finished));
  REQUIRE(rank.outcome());
  CHECK(rank.outcome()->ok);
}

TEST_CASE("a peer that floods a failed endpoint does not keep the custodian from the others") {
  Setup setup;
  auto flooded = *setup.endpoints->open("sglang-1", "HOST-4");
  RawPeer peer(flooded->endpoint());
  flooded->fail(test_failure());
  RankThread rank(setup.session->endpoint());
  REQUIRE(walk(*setup.session, setup.memory, Reached::reloaded));
  for (int i = 0; i < 500; ++i) peer.send({"", "junk"});
  setup.session->fail(test_failure());
  for (int i = 0; i < 500; ++i) peer.send({"", "junk"});
  REQUIRE(rank.outcome());
  CHECK_FALSE(rank.outcome()->ok);
}

}  // namespace ckptd::test
