#include "common/utf8.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace ckptd {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

struct Lead {
  std::size_t length = 0;  ///< of the whole sequence; 0 for a byte that begins none
  unsigned char second_min = 0x80, second_max = 0xbf;
};

/// The second byte's range is what rules out overlong forms, surrogates and values past U+10FFFF.
Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte >= 0xc2 && byte <= 0xdf) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

/// Length of the valid sequence at the front, 0 if there is none.
std::size_t sequence_at_front(std::string_view text) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  auto lead = lead_of(byte(0));
  if (lead.length == 0 || lead.length > text.size()) return 0;
  if (lead.length > 1 && (byte(1) < lead.second_min || byte(1) > lead.second_max)) return 0;
  for (std::size_t i = 2; i < lead.length; ++i)
    if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
  return lead.length;
}

/// Of a whole character: U+0000 to U+001F, U+007F, and U+0080 to U+009F, whose last byte is their number.
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  return character.size() == 2 && first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

/// Names of tensors are ASCII but for the odd one, and an update looks at a hundred thousand of them.
bool is_ascii(std::string_view text) {
  std::uint64_t seen = 0, word = 0;
  for (; text.size() >= sizeof word; text.remove_prefix(sizeof word)) {
    std::memcpy(&word, text.data(), sizeof word);
    seen |= word;
  }
  for (char last : text) seen |= static_cast<unsigned char>(last);
  return (seen & 0x8080808080808080) == 0;
}

}  // namespace

std::size_t utf8_prefix_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto length = sequence_at_front(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

bool is_utf8(std::string_view text) { return is_ascii(text) || utf8_prefix_bytes(text) == text.size(); }

std::string replace_invalid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    auto length = sequence_at_front(text);
    valid.append(length == 0 ? kReplacement : text.substr(0, length));
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

std::string shown(std::string_view text, std::size_t limit_bytes) {
  std::string result;
  while (!text.empty()) {
    if (result.size() >= limit_bytes) return result + "...";
    const auto length = sequence_at_front(text);
    if (length == 0 || is_control(text.substr(0, length)))
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[length == 0 ? 0 : length - 1]));
    else
      result += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

}  // namespace ckptd
