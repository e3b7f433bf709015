#include "daemon/source/json_text.h"

#include <algorithm>

namespace ckptd::source {

Result<simdjson::dom::element> parse_json(simdjson::dom::parser& parser, std::span<const std::byte> text,
                                          std::uint64_t first_byte) {
  if (text.empty()) return fail(ErrorKind::corrupt, "there is nothing where JSON should be");
  const std::string_view characters(reinterpret_cast<const char*>(text.data()), text.size());
  simdjson::dom::element root;
  auto error = parser.parse(characters.data(), characters.size()).get(root);
  switch (error) {
    case simdjson::SUCCESS: return root;
    case simdjson::MEMALLOC: return fail(ErrorKind::no_space, "no memory to parse {} bytes of JSON", text.size());
    case simdjson::UTF8_ERROR:
      return fail(ErrorKind::corrupt, "byte {} is not UTF-8", first_byte + utf8_prefix_bytes(characters));
    default:
      return fail(ErrorKind::corrupt, "bytes {} to {} are not JSON: {}", first_byte, first_byte + text.size(),
                  simdjson::error_message(error));
  }
}

std::optional<std::string_view> repeated(std::vector<std::string_view> keys) {
  std::ranges::sort(keys);
  auto twice = std::ranges::adjacent_find(keys);
  if (twice == keys.end()) return std::nullopt;
  return *twice;
}

}  // namespace ckptd::source
