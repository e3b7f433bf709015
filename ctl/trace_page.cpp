#include "ctl/trace_page.h"

#include <nlohmann/json.hpp>

namespace ckptd::ctl {

std::string json_for_script(const nlohmann::json& value) {
  const auto text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  // In JSON these three stand only inside strings, where the escapes mean the same.
  for (const char c : text) switch (c) {
      case '<': safe += "\\u003c"; break;
      case '>': safe += "\\u003e"; break;
      case '&': safe += "\\u0026"; break;
      default: safe += c;
    }
  return safe;
}

std::string trace_page(const nlohmann::json& job, const nlohmann::json& trace) {
  std::string page(kTracePage);
  const auto at = page.find(kTracePageMarker);
  if (at == page.npos) return page;  // a test sees to it that it is there
  return page.replace(at, kTracePageMarker.size(), json_for_script({{"job", job}, {"trace", trace}}));
}

}  // namespace ckptd::ctl
