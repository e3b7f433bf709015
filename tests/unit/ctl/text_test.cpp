#include "ctl/text.h"

#include <catch2/catch.hpp>

#include "ctl/console.h"
#include "ctl/table.h"

namespace ckptd::ctl {
namespace {

TEST_CASE("width counts columns, not bytes") {
  CHECK(display_width("") == 0);
  CHECK(display_width("llama@3") == 7);
  CHECK(display_width("\u00e9\u2026") == 2);
  CHECK(display_width("e\u0301") == 1);
  CHECK(display_width("\u6a21\u578b") == 4);
  CHECK(display_width("\xff\xc3") == 2);  // neither byte begins a character
  CHECK(display_width("\xe6\xa8") == 2);  // cut in the middle of one
  CHECK(display_width("\xf8\x88\x80\x80\x80") == 5);
}

TEST_CASE("shortening never exceeds its columns and never cuts a character") {
  CHECK(shorten("resident", 8, true) == "resident");
  CHECK(shorten("resident", 7, true) == "reside\u2026");
  CHECK(shorten("resident", 7, false) == "resi...");
  CHECK(shorten("resident", 4, false) == "res~");
  CHECK(shorten("resident", 0, true).empty());
  CHECK(shorten("\u6a21\u578b\u6a21", 4, true) == "\u6a21\u2026");
  for (std::size_t columns = 0; columns < 12; ++columns)
    for (bool utf8 : {false, true})
      CHECK(display_width(shorten("a\u6a21\u578b\u00e9xyz\xff", columns, utf8)) <= columns);
}

TEST_CASE("nothing that a file name holds drives the terminal") {
  CHECK(printable("a\x1b[2Jb") == "a\\x1b[2Jb");
  CHECK(printable("a\nb\tc\r") == "a b c\\x0d");
  CHECK(printable("a\nb\tc", false) == "a\nb\tc");
  CHECK(printable("\u009b31m") == "\\x9b31m");  // the eight-bit form of ESC [
  CHECK(printable("\x9b"
                  "31m") == "?31m");  // and the same byte alone
  CHECK(printable("x\u202egnp.exe") == "x\\x202egnp.exe");
  CHECK(printable(std::string("a\0b", 3)) == "a\\x00b");
  CHECK(printable("\u6a21\u578b") == "\u6a21\u578b");
}

TEST_CASE("indentation reaches every line") {
  CHECK(indent("", "  ").empty());
  CHECK(indent("a\n\nb", "  ") == "  a\n  \n  b\n");
  CHECK(indent("a\n", "  ") == "  a\n");
}

TEST_CASE("ages") {
  auto now = std::chrono::system_clock::now();
  auto age = [&](std::chrono::seconds span) { return show_age(now - span, now); };
  CHECK(age(std::chrono::seconds(-500)) == "just now");
  CHECK(age(std::chrono::seconds(1)) == "just now");
  CHECK(age(std::chrono::seconds(59)) == "59 s ago");
  CHECK(age(std::chrono::minutes(3)) == "3 m ago");
  CHECK(age(std::chrono::hours(47)) == "47 h ago");
  CHECK(age(std::chrono::hours(48)) == "2 d ago");
}

TEST_CASE("the first locale variable that is set decides") {
  CHECK(is_utf8_locale(nullptr, nullptr, "en_US.UTF-8"));
  CHECK(is_utf8_locale("", nullptr, "de_DE.utf8"));
  CHECK_FALSE(is_utf8_locale("C", nullptr, "en_US.UTF-8"));
  CHECK_FALSE(is_utf8_locale(nullptr, "POSIX", "en_US.UTF-8"));
  CHECK_FALSE(is_utf8_locale(nullptr, nullptr, nullptr));
}

const Table kTable{{{"NAME", true}, {"SIZE", false, true}, {"WHERE", true}},
                   {{"llama@3", "1.25 GiB", "/models/a/rather/long/path"}, {"q", "7 B"}}};

TEST_CASE("a table lines its columns up and leaves no trailing blanks") {
  CHECK(render(kTable, std::nullopt, false) ==
        "NAME         SIZE  WHERE\n"
        "llama@3  1.25 GiB  /models/a/rather/long/path\n"
        "q             7 B  -\n");
}

TEST_CASE("a table is cut only to a given width, flexible columns first") {
  auto narrow = render(kTable, 36, true);
  CHECK(narrow ==
        "NAME         SIZE  WHERE\n"
        "llama@3  1.25 GiB  /models/a/rather\u2026\n"
        "q             7 B  -\n");
  for (std::size_t width = 1; width < 60; ++width) {
    auto text = render(kTable, width, true);
    for (std::size_t at = 0; at < text.size();) {
      auto end = text.find('\n', at);
      CHECK(display_width(text.substr(at, end - at)) <= width);
      at = end + 1;
    }
  }
}

TEST_CASE("cells cannot break out of their line") {
  Table table{{{"NAME"}, {"STATE"}}, {{"a\nb", "\x1b[31mred"}}};
  CHECK(render(table, std::nullopt, true) == "NAME  STATE\na b   \\x1b[31mred\n");
}

TEST_CASE("fields are aligned, go on below themselves and leave out what is empty") {
  CHECK(render_fields({{"state", "resident"}, {"error", ""}, {"checkpoint", "a\nb"}}) ==
        "state       resident\n"
        "checkpoint  a\n"
        "            b\n");
}

}  // namespace
}  // namespace ckptd::ctl
