// An engine's answer, to each of the requests whose answers are read: the first line is the status, the rest is the body.
#include <charconv>

#include "proto/lmdeploy/update_weights.h"
#include "proto/sglang/about.h"
#include "proto/sglang/control.h"
#include "proto/sglang/update_weights.h"
#include "proto/vllm/about.h"
#include "proto/vllm/control.h"
#include "proto/vllm/update_weights.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto line = input.line();
  unsigned status = 0;
  std::from_chars(line.data(), line.data() + line.size(), status);
  const auto body = input.rest();
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
  return 0;
}
