// The golden values come from another implementation: Python's xxhash 4.1.0.
#include "daemon/weights/digest.h"

#include <catch2/catch.hpp>

#include "tests/unit/weights/pattern.h"

namespace ckptd::weights {
namespace {

Digest digest_of_text(std::string_view text) { return digest_of(std::as_bytes(std::span(text))); }

TEST_CASE("digests of blocks are XXH3-128 in canonical order") {
  CHECK(digest_of_text("").hex() == "99aa06d3014798d86001c324468d497f");
  CHECK(digest_of_text("abc").hex() == "06b05ab6733a618578af5f94892f3950");
  CHECK(digest_of(pattern(1000)).hex() == "c9b8608879afb00fd45f5a87c5c20462");
}

TEST_CASE("the digest of a tensor is the digest over those of its pieces") {
  const auto whole = digest_of(pattern(kDigestPieceBytes)), rest = digest_of(pattern(1000));
  const Digest both[] = {whole, rest};
  CHECK(combine_pieces(both).hex() == "9147c3696c0c239c709ea4cd69a6adff");
  CHECK(combine_pieces({&rest, 1}).hex() == "65a18690ac906f41215b839b3bb8f7ee");
  const Digest swapped[] = {rest, whole};
  CHECK(combine_pieces(swapped) != combine_pieces(both));
}

TEST_CASE("a tensor without bytes has the digest of no pieces") {
  CHECK(combine_pieces({}).hex() == "99aa06d3014798d86001c324468d497f");
}

TEST_CASE("a digest over parts is that over the whole, however it is cut, and again afterwards") {
  const auto bytes = pattern(10'007);
  const auto expected = digest_of(bytes);
  DigestStream stream;
  CHECK(stream.finish() == digest_of({}));
  for (std::size_t step : {std::size_t{1}, std::size_t{255}, std::size_t{1024}, bytes.size()}) {
    for (std::size_t at = 0; at < bytes.size(); at += step)
      stream.add(std::span(bytes).subspan(at, std::min(step, bytes.size() - at)));
    CHECK(stream.finish() == expected);
  }
}

TEST_CASE("digests and their texts") {
  const auto digest = digest_of_text("abc");
  CHECK(Digest::from_hex(digest.hex()).value() == digest);
  CHECK(Digest::from_hex("06B05AB6733A618578AF5F94892F3950").value() == digest);
  CHECK(Digest{}.hex() == std::string(32, '0'));
  for (std::string_view text : {"", "06b05ab6733a618578af5f94892f395", "06b05ab6733a618578af5f94892f39500",
                                "06b05ab6733a618578af5f94892f395g",
                                "0x6b05ab6733a618578af5f94892f395", " 6b05ab6733a618578af5f94892f3950",
                                "+6b05ab6733a618578af5f94892f3950", "-6b05ab6733a618578af5f94892f3950"}) {
    INFO(text);
    const auto refused = Digest::from_hex(text);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::invalid_argument);
    CHECK_THAT(refused.error().sentence, Catch::Contains(std::string(text)));
  }
}

}  // namespace
}  // namespace ckptd::weights
