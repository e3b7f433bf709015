#include "daemon/prefetch/passing_hash.h"

#include <catch2/catch.hpp>
#include <random>

using namespace ckptd;
using namespace ckptd::prefetch;

TEST_CASE("pieces inside a block are hashed however the block comes in parts, and no others are") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t rest_offset = random() % 10'000;
    std::vector<std::byte> bytes(1 + random() % 5000);
    for (auto& each : bytes) each = static_cast<std::byte>(random());
    const Block block{.first_piece = 1, .end_piece = 0, .rest_offset = rest_offset, .bytes = bytes.size()};
    Work work;
    work.pieces.push_back({});  // of an earlier block
    // From before the block to behind it, with gaps now and then.
    auto at = rest_offset - std::min<std::uint64_t>(rest_offset, random() % 100);
    while (at < rest_offset + bytes.size()) {
      const auto size = static_cast<std::uint32_t>(1 + random() % (random() % 4 == 0 ? 2000 : 50));
      const bool inside = at >= rest_offset && at + size <= rest_offset + bytes.size();
      if (at + size > rest_offset) work.pieces.push_back({.rest_offset = at, .bytes = size, .blocks = inside ? 1U : 2U});
      at += size + (random() % 3 == 0 ? random() % 40 : 0);
    }
    auto whole = block;
    whole.end_piece = static_cast<std::uint32_t>(work.pieces.size());

    std::vector<weights::Digest> digests(work.pieces.size());
    PassingHash passing(work, whole, digests);
    for (std::span<const std::byte> rest = bytes; !rest.empty();) {
      const auto part = rest.first(std::min<std::size_t>(rest.size(), 1 + random() % 700));
      passing.add(part);
      rest = rest.subspan(part.size());
    }
    for (std::size_t i = 1; i < work.pieces.size(); ++i) {
      const auto& piece = work.pieces[i];
      const auto expected = piece.blocks == 1 ? weights::digest_of(std::span(bytes).subspan(piece.rest_offset - rest_offset, piece.bytes))
                                              : weights::Digest{};
      REQUIRE(digests[i] == expected);
    }
    REQUIRE(digests[0] == weights::Digest{});
  }
}
