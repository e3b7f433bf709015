#include "ctl/report.h"

#include <algorithm>

#include "ctl/text.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {

std::string one_line(const nlohmann::json& object) {
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string describe(const Error& error) {
  auto text = fmt::format("ckptctl: {}\n", printable(error.sentence));
  text += indent(printable(error.vendor, false), "    ");
  for (const auto& [name, value] : error.facts) text += fmt::format("  {}: {}\n", printable(name), printable(value));
  // A job of a daemon that is gone is gone with it.
  if (error.kind == ErrorKind::unavailable) return text;
  auto job = std::ranges::find(error.facts, "job", &std::pair<std::string, std::string>::first);
  if (job != error.facts.end()) text += fmt::format("  hint: ckptctl job show {}\n", printable(job->second));
  return text;
}

int report(const Error& error, const Console& console, bool json) {
  if (json)
    console.out(one_line(api::to_json(error)));
  else
    console.err(describe(error));
  return api::outcome_of(error.kind).exit_code;
}

}  // namespace ckptd::ctl
