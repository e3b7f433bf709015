// A session with a rank that answers whatever it likes: each round is one byte of what we do next, then the frames that
// the rank sends, each behind one byte of length.
#include <array>
#include <vector>

#include "proto/checkpoint_engine/envelope.h"
#include "proto/checkpoint_engine/sender.h"
#include "tests/fuzz/target.h"

using namespace ckptd;
using namespace ckptd::proto::checkpoint_engine;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::array kSteps{&Sender::sent_offer, &Sender::sent_reload, &Sender::sent_release, &Sender::sent_finish};
  fuzz::Input input(data, size);
  Sender sender;
  Envelope envelope("lettersx");
  std::string frame;
  while (!input.empty()) {
    const auto before = sender.state();
    const bool waiting = sender.outstanding();
    const auto what = input.byte();
    if (what < 0x80) {
      const auto sent = (sender.*kSteps[what % kSteps.size()])();
      fuzz::check(!(sent && waiting), "nothing is sent while a reply is outstanding");
      fuzz::check(sent || sender.state() == before, "a step that is not legal changes nothing");
      if (sent) frame = envelope.next_frame();
      continue;
    }
    std::vector<std::string_view> frames;
    if ((what & 1) != 0) frames = {frame, {}};
    for (int more = (what >> 1) % 4; more > 0; --more) frames.push_back(input.text(input.byte()));
    const auto kind = envelope.classify(frames);
    if (kind != ReplyKind::answer) continue;
    fuzz::check(frames.size() == Envelope::kFrames && !frame.empty() && frames[0] == frame,
                "only a reply to the last message is an answer");
    const auto received = sender.received(frames[2]);
    if (received) {
      fuzz::check(waiting && frames[2].empty(), "only an empty reply that was waited for is an acknowledgement");
    } else {
      fuzz::check(sender.state() == Sender::State::failed, "an error ends the session");
      fuzz::check_refusal(received.error());
    }
  }
  fuzz::check(sender.state() != Sender::State::finished || !sender.outstanding(), "a finished session waits for nobody");
  return 0;
}
