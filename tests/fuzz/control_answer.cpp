// What ckptctl is answered, by a daemon of another version or by something that is none.
#include <nlohmann/json.hpp>

#include "proto/control/api.h"
#include "tests/fuzz/target.h"

namespace {

using namespace ckptd;
using nlohmann::json;

template <class Answer>
void check_journey(const json& value, Result<Answer> (*parse)(const json&)) {
  const auto parsed = parse(value);
  if (!parsed) return fuzz::check(!parsed.error().sentence.empty(), "a refusal has a sentence");
  const auto wire = proto::control::to_json(*parsed);
  const auto again = parse(wire);
  fuzz::check(again && proto::control::to_json(*again) == wire, "an answer survives the journey");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto value = json::parse(fuzz::text_of({data, size}), nullptr, false);
  if (value.is_discarded()) return 0;
  check_journey(value, proto::control::parse_job);
  check_journey(value, proto::control::parse_version);
  check_journey(value, proto::control::parse_engine);
  check_journey(value, proto::control::parse_status);
  check_journey(value, proto::control::parse_update_preview);
  fuzz::check(!proto::control::parse_error(value).sentence.empty(), "every error has a sentence");
  return 0;
}
