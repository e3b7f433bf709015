// The memory that fill() writes, and what should stand in it afterwards.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "daemon/store/store.h"
#include "daemon/weights/digest.h"
#include "daemon/weights/layout.h"
#include "tests/unit/prefetch/memory_source.h"
#include "tests/support/fake_system_root.h"

namespace ckptd::test {

/// The layout of a source, with memory from a store of its own.
struct FilledMemory {
  FakeSystemRoot root;
  std::unique_ptr<store::Store> store;
  weights::Layout layout;
  store::Reservation reservation;

  FilledMemory(const source::Source& source, std::uint64_t segment_bytes) : layout(source.manifest(), segment_bytes) {
    store::Options options{.budget_bytes = std::max<std::uint64_t>(1, layout.segment_count()) * segment_bytes,
                           .segment_bytes = segment_bytes, .lock = store::LockPolicy::off,
                           .system_root = root.path()};
    auto created = store::Store::create(options, {});
    REQUIRE(created);
    store = std::move(*created);
    auto reserved = store->reserve(layout.segment_count());
    REQUIRE(reserved);
    reservation = std::move(*reserved);
  }

  /// From `rest_offset` to the end of its block.
  std::byte* at(std::uint64_t rest_offset) const {
    return &reservation.segments()[rest_offset / layout.segment_bytes()]->memory[rest_offset % layout.segment_bytes()];
  }

  /// How many blocks of 4 KiB are not as in their file.
  std::uint64_t differing_blocks(const MemorySource& source) const {
    std::uint64_t blocks = 0;
    for (std::uint32_t file = 0; file < source.manifest().files.size(); ++file) {
      const auto& range = layout.files()[file];
      for (auto at_byte = range.file_begin; at_byte < range.file_end; at_byte += weights::kBlockBytes)
        blocks += std::memcmp(at(layout.resting_offset(file, at_byte)), source.bytes_of(file).data() + at_byte,
                              std::min(weights::kBlockBytes, range.file_end - at_byte)) != 0;
    }
    return blocks;
  }

  /// What there is to read.
  std::uint64_t file_bytes(const MemorySource& source) const {
    std::uint64_t bytes = 0;
    for (std::uint32_t file = 0; file < source.manifest().files.size(); ++file)
      bytes += layout.files()[file].file_end - layout.files()[file].file_begin;
    return bytes;
  }
};

inline std::vector<weights::Digest> digests_one_by_one(const MemorySource& source) {
  std::vector<weights::Digest> digests;
  for (const auto& tensor : source.manifest().tensors) {
    auto bytes = std::span(source.bytes_of(tensor.extent.file)).subspan(tensor.extent.offset, tensor.extent.bytes);
    std::vector<weights::Digest> pieces;
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), weights::kDigestPieceBytes)))
      pieces.push_back(weights::digest_of(bytes.first(std::min(bytes.size(), weights::kDigestPieceBytes))));
    digests.push_back(weights::combine_pieces(pieces));
  }
  return digests;
}

/// One file with one tensor of `bytes` after a header of 100.
inline MemorySource one_tensor(std::uint64_t bytes) {
  weights::Manifest manifest;
  manifest.files.push_back({.path = "/w/a.safetensors", .bytes = 100 + bytes, .data_begin = 100, .stamp = ""});
  manifest.tensors.push_back({.name = "t", .dtype = weights::Dtype::u8, .shape = {bytes}, .extent = {0, 100, bytes}});
  return {manifest, {std::vector<std::byte>(100 + bytes, std::byte{3})}};
}

}  // namespace ckptd::test
