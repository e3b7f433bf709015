// An engine's answer to an update: the first line is the status, the rest is the body.
#include <charconv>

#include "proto/sglang/update_weights.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto line = input.line();
  unsigned status = 0;
  std::from_chars(line.data(), line.data() + line.size(), status);
  const auto answer = proto::sglang::read_update_answer(status, input.rest());
  if (answer)
    fuzz::check(status == 200, "only a 200 is success");
  else
    fuzz::check_refusal(answer.error());
  return 0;
}
