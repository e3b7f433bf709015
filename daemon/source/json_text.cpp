#include "daemon/source/json_text.h"

#include <algorithm>

namespace ckptd::source {
namespace {

/// Bytes of the character that starts `text`, 0 if none does.
std::size_t character_bytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t bytes = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  return bytes <= text.size() && is_utf8(text.substr(0, bytes)) ? bytes : 0;
}

std::size_t utf8_prefix_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    auto bytes = character_bytes(text.substr(at));
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

}  // namespace

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

std::string shown(std::string_view text) {
  constexpr std::size_t kLimitBytes = 200;
  std::string result;
  while (!text.empty()) {
    if (result.size() >= kLimitBytes) return result + "...";
    const auto bytes = character_bytes(text);
    const auto first = static_cast<unsigned char>(text.front());
    if (bytes == 0 || first < 0x20 || first == 0x7f)
      result += fmt::format("\\x{:02x}", first);
    else
      result += text.substr(0, bytes);
    text.remove_prefix(std::max<std::size_t>(bytes, 1));
  }
  return result;
}

bool is_utf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

std::optional<std::string_view> repeated(std::vector<std::string_view> keys) {
  std::ranges::sort(keys);
  auto twice = std::ranges::adjacent_find(keys);
  if (twice == keys.end()) return std::nullopt;
  return *twice;
}

}  // namespace ckptd::source
