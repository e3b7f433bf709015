#include "proto/checkpoint_engine/utf8.h"

#include <catch2/catch.hpp>

namespace ckptd::proto::checkpoint_engine {

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

}  // namespace ckptd::proto::checkpoint_engine
