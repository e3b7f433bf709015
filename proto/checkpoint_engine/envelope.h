// The frames around a message to a rank, and what a reply's frames say. Pure: no sockets. docs/worker_protocol.md,
// "Frames", is the description.
//
//   frame 1   12 bytes: 8 letters drawn for this socket, then the message's number, 32 bits, big-endian, from 1
//   frame 2   empty: the end of the envelope, which the rank's REP keeps aside and sends back before its reply
//   frame 3   the message, or the reply
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ckptd::proto::checkpoint_engine {

/// What is known of a reply before its text is read.
enum class ReplyKind {
  answer,     ///< to the message that was sent last
  stale,      ///< to an earlier message, of ours or of a predecessor's
  malformed,  ///< not a REP's reply
};

class Envelope {
 public:
  static constexpr std::size_t kLetters = 8;
  static constexpr std::size_t kFrames = 3;  ///< of a message, and of a reply

  Envelope() = default;
  /// `letters` are those of this socket, kLetters of them.
  explicit Envelope(std::string letters) : letters_(std::move(letters)) {}

  /// Counts a message and returns its frame 1.
  std::string next_frame() {
    ++number_;
    return frame();
  }

  ReplyKind classify(std::span<const std::string_view> frames) const;

 private:
  std::string frame() const;

  std::string letters_;
  std::uint32_t number_ = 0;
};

}  // namespace ckptd::proto::checkpoint_engine
