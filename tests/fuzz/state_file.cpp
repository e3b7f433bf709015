// state.json, as a predecessor, a person or a bad disk has left it.
#include "daemon/journal/state_json.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto contents = journal::from_json(fuzz::text_of({data, size}));
  if (!contents) {
    fuzz::check_refusal(contents.error());
    return 0;
  }
  const auto again = journal::from_json(journal::to_json(*contents));
  fuzz::check(again && *again == *contents, "what was read can be written and read again");
  return 0;
}
