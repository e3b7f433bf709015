#include "proto/checkpoint_engine/envelope.h"

namespace ckptd::proto::checkpoint_engine {

std::string Envelope::frame() const {
  auto frame = letters_;
  for (int shift = 24; shift >= 0; shift -= 8) frame.push_back(static_cast<char>(number_ >> shift));
  return frame;
}

ReplyKind Envelope::classify(std::span<const std::string_view> frames) const {
  if (frames.size() != kFrames || !frames[1].empty()) return ReplyKind::malformed;
  return number_ != 0 && frames[0] == frame() ? ReplyKind::answer : ReplyKind::stale;
}

}  // namespace ckptd::proto::checkpoint_engine
