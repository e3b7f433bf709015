#include "ctl/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace ckptd::ctl {
namespace {

struct Character {
  std::uint32_t code;
  std::size_t bytes;
};

/// The first character of a text that is not empty. A byte that starts no character counts as one of its own.
Character first_character(std::string_view text) {
  auto lead = static_cast<unsigned char>(text.front());
  std::size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (length == 0 || length > text.size()) return {0xfffd, 1};
  std::uint32_t code = length == 1 ? lead : lead & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xc0) != 0x80) return {0xfffd, 1};
    code = code << 6 | (next & 0x3f);
  }
  return {code, length};
}

struct Range {
  std::uint32_t first, last;
};

// The blocks that file names really contain, not all of Unicode: a column off in a table is no harm.
constexpr std::array kWide{Range{0x1100, 0x115f},  Range{0x2e80, 0xa4cf},   Range{0xac00, 0xd7a3},
                           Range{0xf900, 0xfaff},  Range{0xfe30, 0xfe6f},   Range{0xff00, 0xff60},
                           Range{0xffe0, 0xffe6},  Range{0x1f300, 0x1f64f}, Range{0x1f900, 0x1f9ff},
                           Range{0x20000, 0x3fffd}};
constexpr std::array kCombining{Range{0x0300, 0x036f}, Range{0x1ab0, 0x1aff}, Range{0x200b, 0x200f},
                                Range{0x20d0, 0x20ff}, Range{0xfe00, 0xfe0f}, Range{0xfe20, 0xfe2f}};

template <std::size_t N>
bool is_in(std::uint32_t code, const std::array<Range, N>& ranges) {
  return std::ranges::any_of(ranges, [&](Range range) { return code >= range.first && code <= range.last; });
}

std::size_t width_of(std::uint32_t code) {
  return is_in(code, kCombining) ? 0 : is_in(code, kWide) ? 2 : 1;
}

/// C0, DEL, C1 and the marks that turn the direction of writing around.
bool is_control(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || (code >= 0x202a && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069);
}

}  // namespace

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    auto [code, bytes] = first_character(text);
    width += width_of(code);
    text.remove_prefix(bytes);
  }
  return width;
}

std::string shorten(std::string_view text, std::size_t columns, bool utf8) {
  if (display_width(text) <= columns) return std::string(text);
  std::string_view ellipsis = utf8 ? "\u2026" : columns < 6 ? "~" : "...";
  auto ellipsis_width = display_width(ellipsis);
  if (columns < ellipsis_width) return {};
  std::string kept;
  for (std::size_t width = 0;;) {
    auto [code, bytes] = first_character(text);
    width += width_of(code);
    if (width + ellipsis_width > columns) return kept + std::string(ellipsis);
    kept += text.substr(0, bytes);
    text.remove_prefix(bytes);
  }
}

std::string printable(std::string_view text, bool one_line) {
  std::string shown;
  while (!text.empty()) {
    auto [code, bytes] = first_character(text);
    bool layout = code == '\n' || code == '\t';
    if (code == 0xfffd && bytes == 1)
      shown += '?';
    else if (layout && one_line)
      shown += ' ';
    else if (is_control(code) && !layout)
      shown += fmt::format("\\x{:02x}", code);
    else
      shown += text.substr(0, bytes);
    text.remove_prefix(bytes);
  }
  return shown;
}

std::string indent(std::string_view text, std::string_view prefix) {
  std::string out;
  while (!text.empty()) {
    auto end = text.find('\n');
    out += fmt::format("{}{}\n", prefix, text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return out;
}

std::string show_age(std::chrono::system_clock::time_point then, std::chrono::system_clock::time_point now) {
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now - then).count();
  if (seconds < 2) return "just now";
  if (seconds < 60) return fmt::format("{} s ago", seconds);
  if (seconds < 3600) return fmt::format("{} m ago", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{} h ago", seconds / 3600);
  return fmt::format("{} d ago", seconds / 86400);
}

}  // namespace ckptd::ctl
