// An engine's answer, to each of the requests whose answers are read: the first line is the status, the rest is the body.
// The first form feed of a body, which JSON does not know, stands for a list that is nested 100,000 levels deep: more than
// a search would write, and more than the stack of a thread bears where each level takes some.
#include <charconv>

#include "proto/lmdeploy/update_weights.h"
#include "proto/sglang/about.h"
#include "proto/sglang/control.h"
#include "proto/sglang/update_weights.h"
#include "proto/vllm/about.h"
#include "proto/vllm/control.h"
#include "proto/vllm/update_weights.h"
#include "proto/vllm/weight_transfer/answers.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

namespace {

std::string unfolded(std::string_view body) {
  constexpr std::size_t kLevels = 100'000;
  std::string text(body);
  if (const auto at = text.find('\f'); at != text.npos)
    text.replace(at, 1, std::string(kLevels, '[') + std::string(kLevels, ']'));
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto line = input.line();
  unsigned status = 0;
  std::from_chars(line.data(), line.data() + line.size(), status);
  const auto body = unfolded(input.rest());
  constexpr auto kKey = proto::answer::Key::api;
  const auto judge = [&](const auto& answer) {
    if (answer)
      fuzz::check(status == 200, "only a 200 is success");
    else
      fuzz::check_refusal(answer.error());
  };
  judge(proto::sglang::read_update_answer(status, body));
  judge(proto::sglang::read_weight_version(status, body, kKey));
  judge(proto::sglang::read_server_info(status, body, kKey));
  judge(proto::sglang::read_checksums(status, body, kKey));
  judge(proto::sglang::read_values(status, body, kKey));
  judge(proto::vllm::read_update_answer(status, body, kKey));
  judge(proto::vllm::read_checksums(status, body, kKey));
  judge(proto::vllm::read_cache_reset(status, body, kKey));
  judge(proto::lmdeploy::read_update_answer(status, body, kKey));
  judge(proto::lmdeploy::read_readiness(status, body, kKey));
  // What is only asked for what it tells, and never judged: it must not throw.
  static_cast<void>(proto::vllm::read_server_info(status, body));
  static_cast<void>(proto::vllm::read_routes(body));
  static_cast<void>(proto::vllm::read_model(status, body));
  static_cast<void>(proto::vllm::read_awake(status, body));

  namespace transfer = proto::vllm::weight_transfer;
  const transfer::Answer answer{.status = status, .body = body, .sent = kKey};
  for (const auto* call : {"init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"})
    judge(transfer::read_done(call, answer));
  const bool success = transfer::read_done("update_weights", answer).has_value();
  for (const auto refused : {transfer::knows_no_packed(answer), transfer::is_already_active(answer),
                             transfer::has_no_session(answer)})
    fuzz::check(!(success && refused), "an answer is no success and a refusal at once");
  if (const auto config = transfer::read_config(answer))
    if (const auto takes = transfer::check_takes_pickles(*config); !takes) fuzz::check_refusal(takes.error());
  static_cast<void>(transfer::read_world_size(answer));
  return 0;
}
