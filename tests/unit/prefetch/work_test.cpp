#include "daemon/prefetch/work.h"

#include <catch2/catch.hpp>

#include "tests/unit/prefetch/memory_source.h"

using namespace ckptd;
using namespace ckptd::prefetch;
using Catch::Matchers::Contains;
using weights::kBlockBytes;

namespace {

/// One file with 100 bytes of header and tensors of these sizes.
weights::Manifest manifest_of(std::vector<std::uint64_t> tensor_bytes) {
  weights::Manifest manifest;
  std::uint64_t at = 100;
  for (auto bytes : tensor_bytes) {
    auto name = fmt::format("t{}", manifest.tensors.size());
    manifest.tensors.push_back({.name = name, .dtype = weights::Dtype::u8, .shape = {bytes}, .extent = {0, at, bytes}});
    at += bytes;
  }
  manifest.files.push_back({.path = "/w/a.safetensors", .bytes = at, .data_begin = 100, .stamp = ""});
  return manifest;
}

}  // namespace

TEST_CASE("blocks tile every file, stay aligned and inside one segment, and know their pieces") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 40; ++round) {
    INFO("seed " << seed << ", round " << round);
    auto source = test::random_source(random, 10 << 20);
    const auto segment_bytes = kBlockBytes * (1 + random() % 700);
    const auto read_bytes = random() % 3'000'000;
    weights::Layout layout(source.manifest(), segment_bytes);
    auto work = cut_work(source.manifest(), layout, read_bytes);
    REQUIRE(work);

    std::vector<std::uint64_t> next(layout.files().size());
    for (std::size_t i = 0; i < next.size(); ++i) next[i] = layout.files()[i].file_begin;
    for (const auto& block : work->blocks) {
      REQUIRE(block.file_offset == next[block.file]);
      REQUIRE(block.bytes > 0);
      REQUIRE((block.file_offset | block.rest_offset | block.bytes) % kBlockBytes == 0);
      REQUIRE(block.rest_offset == layout.resting_offset(block.file, block.file_offset));
      REQUIRE(block.rest_offset / segment_bytes == (block.rest_offset + block.bytes - 1) / segment_bytes);
      REQUIRE(block.bytes <= std::max(kBlockBytes, round_up(read_bytes, kBlockBytes)));
      next[block.file] += block.expected_bytes;
    }
    for (std::size_t i = 0; i < next.size(); ++i)
      REQUIRE(next[i] == std::max(layout.files()[i].file_begin, source.manifest().files[i].bytes));

    // Each pair of block and piece that overlap, counted the slow way.
    std::vector<std::uint32_t> touching(work->pieces.size());
    int wrong = 0;
    for (const auto& block : work->blocks)
      for (std::uint32_t p = 0; p < work->pieces.size(); ++p) {
        const auto& piece = work->pieces[p];
        bool overlap = piece.rest_offset < block.rest_offset + block.bytes &&
                       block.rest_offset < piece.rest_offset + piece.bytes;
        wrong += overlap != (block.first_piece <= p && p < block.end_piece);
        touching[p] += overlap;
      }
    REQUIRE(wrong == 0);
    for (std::size_t p = 0; p < work->pieces.size(); ++p) {
      REQUIRE(touching[p] > 0);
      REQUIRE(touching[p] == work->pieces[p].blocks);
    }
  }
}

TEST_CASE("pieces start at the tensor's first byte and the last one is shorter") {
  constexpr std::uint64_t kPiece = weights::kDigestPieceBytes;
  auto manifest = manifest_of({0, 1, kPiece, kPiece + 1, 0, 3 * kPiece});
  auto work = cut_work(manifest, weights::Layout(manifest, 2 * kMiB), 8 * kMiB);
  REQUIRE(work);
  CHECK(work->tensor_end == std::vector<std::uint32_t>{0, 1, 2, 4, 4, 7});
  CHECK(work->pieces[0].bytes == 1);
  CHECK(work->pieces[3].bytes == 1);
  CHECK(work->pieces[3].rest_offset == 100 + 1 + 2 * kPiece);
}

TEST_CASE("without files there is no work") {
  auto work = cut_work({}, weights::Layout({}, kBlockBytes), 1);
  REQUIRE(work);
  CHECK(work->blocks.empty());
  CHECK(work->pieces.empty());
}

TEST_CASE("tensors that overlap or leave their file are refused by name") {
  auto refusal = [](const weights::Manifest& manifest) {
    auto work = cut_work(manifest, weights::Layout(manifest, kBlockBytes), kBlockBytes);
    REQUIRE_FALSE(work);
    CHECK_THAT(work.error().sentence, Contains("t1"));
    return work.error().kind;
  };
  auto overlap = manifest_of({10, 10});
  overlap.tensors[1].extent.offset -= 1;
  CHECK(refusal(overlap) == ErrorKind::corrupt);

  auto beyond = manifest_of({10, 10});
  beyond.tensors[1].extent.bytes += 1;
  CHECK(refusal(beyond) == ErrorKind::corrupt);

  auto wraps = manifest_of({10, 10});
  wraps.tensors[1].extent.offset = ~std::uint64_t{0};
  CHECK(refusal(wraps) == ErrorKind::corrupt);

  auto no_file = manifest_of({10, 10});
  no_file.tensors[1].extent.file = 1;
  CHECK(refusal(no_file) == ErrorKind::internal);
}
