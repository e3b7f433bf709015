#include "common/utf8.h"

#include <catch2/catch.hpp>

namespace ckptd {

TEST_CASE("valid UTF-8 stays as it is") {
  auto text = GENERATE(as<std::string>{}, "", "plain",
                       "gr\xc3\xb6\xc3\x9f"
                       "e",
                       "\xe6\x9d\x83\xe9\x87\x8d", "\xf0\x9f\x98\x80", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
                       "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf");
  CHECK(is_utf8(text));
  CHECK(replace_invalid_utf8(text) == text);
}

TEST_CASE("each byte that begins nothing becomes one replacement character") {
  const std::string bad = "\xef\xbf\xbd";
  CHECK(replace_invalid_utf8("a\x80"
                             "b") == "a" + bad + "b");
  CHECK(replace_invalid_utf8("\xc0\xaf") == bad + bad);                      // overlong
  CHECK(replace_invalid_utf8("\xe0\x9f\xbf") == bad + bad + bad);            // overlong
  CHECK(replace_invalid_utf8("\xed\xa0\x80") == bad + bad + bad);            // a surrogate
  CHECK(replace_invalid_utf8("\xf4\x90\x80\x80") == bad + bad + bad + bad);  // past U+10FFFF
  CHECK(replace_invalid_utf8("\xf8\x88\x80\x80\x80").size() == 5 * bad.size());
  CHECK(replace_invalid_utf8("\xe6\x9d") == bad + bad);  // cut short
  CHECK(replace_invalid_utf8("\xe6\x9dx") == bad + bad + "x");
  for (auto text : {"\xff", "\xc3", "\xf0\x9f\x98", "x\xfe"}) CHECK_FALSE(is_utf8(text));
}

TEST_CASE("what others wrote is shown on one line, without anything that drives a terminal") {
  CHECK(shown("plain gr\xc3\xb6\xc3\x9f" "e") == "plain gr\xc3\xb6\xc3\x9f" "e");
  CHECK(shown("a\nb\t\x1b[2J\x7f") == "a\\x0ab\\x09\\x1b[2J\\x7f");
  CHECK(shown(std::string_view("\0", 1)) == "\\x00");
  CHECK(shown("\xc2\x9b" "31m") == "\\x9b" "31m");  // the one-character form of ESC [
  CHECK(shown("\xc2\xa0") == "\xc2\xa0");
  CHECK(shown("\xff\xc3") == "\\xff\\xc3");
  CHECK(shown(std::string(300, 'x')) == std::string(200, 'x') + "...");
  CHECK(shown("abc", 3) == "abc");
  CHECK(shown("abcd", 3) == "abc...");
}

TEST_CASE("UTF-8 is counted up to the first byte that breaks it") {
  CHECK(utf8_prefix_bytes("") == 0);
  CHECK(utf8_prefix_bytes("gr\xc3\xb6\xff") == 4);
  CHECK(utf8_prefix_bytes("a\xe6\x9d") == 1);
}

}  // namespace ckptd
