// Text for a terminal: how wide it is, how much of it fits, what is safe to show, and ages. Pure functions.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace ckptd::ctl {

/// Columns that UTF-8 text takes: combining marks none, wide East Asian characters and emoji two.
std::size_t display_width(std::string_view text);

/// As much of the text as fits into `columns`, the last of it an ellipsis if something had to go.
std::string shorten(std::string_view text, std::size_t columns, bool utf8);

/// Replaces control characters, so that a file name or a traceback cannot drive the terminal. A one-line text loses its
/// line breaks as well; otherwise they and tabs stay.
std::string printable(std::string_view text, bool one_line = true);

/// Every line of the text, each behind `prefix`, the last ending in a line break. Empty for an empty text.
std::string indent(std::string_view text, std::string_view prefix);

/// "just now", "12 s ago", "3 m ago", "5 h ago", "2 d ago". A time in the future counts as now: clocks get set.
std::string show_age(std::chrono::system_clock::time_point then, std::chrono::system_clock::time_point now);

}  // namespace ckptd::ctl
