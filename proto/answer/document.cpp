#include "proto/answer/document.h"

#include <nlohmann/json.hpp>

namespace ckptd::proto::answer {
namespace {

constexpr int kLevels = 64;

/// Of whatever the parser accepts it sees the levels that the parser sees; the rest is refused by the parser.
bool is_too_deep(std::string_view body) {
  int depth = 0;
  bool in_text = false;
  for (std::size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_text) {
      if (c == '\\') ++i;
      if (c == '"') in_text = false;
    } else if (c == '"') {
      in_text = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kLevels) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

nlohmann::json document_in(std::string_view body) {
  if (is_too_deep(body)) return nlohmann::json(nlohmann::json::value_t::discarded);
  return nlohmann::json::parse(body, nullptr, false);
}

}  // namespace ckptd::proto::answer
