// The configuration file.
#include "daemon/config/draft.h"
#include "tests/fuzz/target.h"

using namespace ckptd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  config::Draft draft;
  auto read = config::read_text(fuzz::text_of({data, size}), "ckptd.toml", draft);
  if (read) read = config::check(draft);
  if (!read) {
    fuzz::check_refusal(read.error());
    return 0;
  }
  const auto shown = config::show(draft.config);
  config::Draft again;
  fuzz::check(config::read_text(shown, "shown", again).has_value(), "what is shown is a configuration file");
  fuzz::check(config::show(again.config) == shown, "with the same values");
  return 0;
}
