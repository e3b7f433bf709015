#include "daemon/weights/layout.h"

#include <catch2/catch.hpp>
#include <random>

namespace ckptd::weights {
namespace {

Manifest files(const std::vector<std::pair<std::uint64_t, std::uint64_t>>& begin_and_bytes) {
  Manifest manifest;
  for (auto [begin, bytes] : begin_and_bytes)
    manifest.files.push_back({.path = "f", .bytes = bytes, .data_begin = begin, .stamp = ""});
  return manifest;
}

TEST_CASE("a file rests from the block of its first tensor byte to its end") {
  const Layout layout(files({{4096, 12288}, {5000, 9000}, {100, 4096}, {4095, 4097}}), 1 << 20);
  const auto& ranges = layout.files();
  REQUIRE(ranges.size() == 4);
  CHECK(ranges[0].file_begin == 4096);
  CHECK(ranges[0].file_end == 12288);
  CHECK(ranges[0].rest_begin == 0);
  CHECK(ranges[1].file_begin == 4096);
  CHECK(ranges[1].file_end == 9000);
  CHECK(ranges[1].rest_begin == 8192);
  CHECK(ranges[2].file_begin == 0);
  CHECK(ranges[2].rest_begin == 16384);
  CHECK(ranges[3].file_begin == 0);
  CHECK(ranges[3].rest_begin == 20480);
  CHECK(layout.total_bytes() == 28672);
  CHECK(layout.segment_count() == 1);
}

TEST_CASE("a file without tensor bytes takes its last block at most") {
  CHECK(Layout(files({{8192, 8192}}), 1 << 20).total_bytes() == 0);
  CHECK(Layout(files({{8192, 8192}}), 1 << 20).segment_count() == 0);
  CHECK(Layout(files({{10, 10}}), 1 << 20).total_bytes() == 4096);
  CHECK(Layout(files({}), 1 << 20).segment_count() == 0);
}

TEST_CASE("segments are counted up") {
  CHECK(Layout(files({{0, 8192}}), 8192).segment_count() == 1);
  CHECK(Layout(files({{0, 8193}}), 8192).segment_count() == 2);
  CHECK(Layout(files({{0, 8192}}), 4096).segment_count() == 2);
}

TEST_CASE("sizes beyond 32 bits are whole") {
  const std::uint64_t terabyte = std::uint64_t{1} << 40;
  const Layout layout(files({{4096, terabyte}, {0, terabyte}}), std::uint64_t{1} << 30);
  CHECK(layout.total_bytes() == 2 * terabyte - 4096);
  CHECK(layout.segment_count() == 2048);
  CHECK(layout.resting_offset(1, terabyte - 1) == 2 * terabyte - 4097);
}

TEST_CASE("rest keeps a byte's place in its block, and no two bytes meet") {
  std::mt19937_64 random(7);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> sizes;
  for (int i = 0; i < 200; ++i) {
    const auto begin = 8 + random() % 20'000;
    sizes.emplace_back(begin, begin + random() % 20'000);
  }
  const Layout layout(files(sizes), 65536);
  std::uint64_t free_from = 0;
  for (std::uint32_t file = 0; file < sizes.size(); ++file) {
    const auto [begin, bytes] = sizes[file];
    CHECK(layout.files()[file].rest_begin >= free_from);
    CHECK(layout.resting_offset(file, begin) % kBlockBytes == begin % kBlockBytes);
    CHECK(layout.resting_offset(Extent{.file = file, .offset = bytes, .bytes = 0}) ==
          layout.resting_offset(file, begin) + (bytes - begin));
    free_from = layout.resting_offset(file, bytes);
  }
  CHECK(layout.total_bytes() >= free_from);
  CHECK(layout.total_bytes() % kBlockBytes == 0);
}

TEST_CASE("a place ends at its segment's border and at the end of the resting space") {
  const Layout layout(files({{0, 10'000}}), 4096);  // three blocks
  CHECK(layout.place(0).bytes == 4096);
  CHECK(layout.place(4095).bytes == 1);
  CHECK(layout.place(4096).segment == 1);
  CHECK(layout.place(9000).offset == 9000 - 8192);
  CHECK(layout.place(12'287).bytes == 1);
  CHECK(layout.place(12'288).bytes == 0);
  CHECK(layout.place(~std::uint64_t{0}).bytes == 0);
}

TEST_CASE("a folded layout knows the places of its stretches, and that nothing lies between them") {
  const auto layout = Layout(files({{0, 10'000}}), 4096)
                          .folded({{100, 50, 3, 7}, {150, 50, 3, 57}, {200, 50, 3, 200}, {4096, 10, 0, 4086}, {4106, 0, 9, 9}});
  CHECK(layout.total_bytes() == 12'288);
  CHECK(layout.resting_offset(0, 100) == 100);
  CHECK(layout.place(99).bytes == 0);
  const auto first = layout.place(100);
  CHECK(first.segment == 3);
  CHECK(first.offset == 7);
  CHECK(first.bytes == 100);  // neighbours at neighbouring places are one
  CHECK(layout.place(199).bytes == 1);
  CHECK(layout.place(200).offset == 200);
  CHECK(layout.place(250).bytes == 0);
  CHECK(layout.place(4100).offset == 4090);
  CHECK(layout.place(4106).bytes == 0);
  CHECK(Layout(files({{0, 10'000}}), 4096).folded({}).place(0).bytes == 0);
}

}  // namespace
}  // namespace ckptd::weights
