// A source whose files are vectors, with random contents and faults, and which checks the contract of its caller: reads
// are aligned, and when fill() has returned no read is under way.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "common/units.h"
#include "daemon/source/source.h"
#include "daemon/weights/layout.h"

namespace ckptd::test {

class MemorySource : public source::Source {
 public:
  /// Called before each read with its number, file and offset. An error ends the read; it may also block or throw.
  using Fault = std::function<Result<>(int read, std::uint32_t file, std::uint64_t offset)>;

  MemorySource(weights::Manifest manifest, std::vector<std::vector<std::byte>> files)
      : manifest_(std::move(manifest)), files_(std::move(files)) {}

  Fault fault;
  /// Which bytes need no device; asked before each read. Nothing does when it is empty.
  std::function<bool(std::uint32_t file, std::uint64_t offset)> in_memory;
  /// Readers other than the one that blocks.
  std::function<std::unique_ptr<source::Reader>(const source::ReaderOptions&)> reader;
  bool changed = false;
  std::atomic<std::int64_t> resize_last_read = 0;  ///< the end of each file moves by so many bytes after opening
  mutable std::atomic<int> reads = 0, under_way = 0, misaligned = 0;

  const weights::Manifest& manifest() const override { return manifest_; }
  const std::vector<std::byte>& bytes_of(std::size_t file) const { return files_[file]; }

  Result<std::uint64_t> read(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const override {
    struct Inside {
      explicit Inside(std::atomic<int>& count) : count(count) { ++count; }
      ~Inside() { --count; }
      std::atomic<int>& count;
    } inside(under_way);
    auto address = reinterpret_cast<std::uintptr_t>(into.data());
    if ((offset | into.size() | address) % weights::kBlockBytes != 0 || into.empty()) ++misaligned;
    auto number = reads++;
    if (fault) CKPTD_TRY(fault(number, file, offset));
    const auto& bytes = files_[file];
    auto end = static_cast<std::uint64_t>(static_cast<std::int64_t>(bytes.size()) + resize_last_read);
    auto count = std::min<std::uint64_t>(into.size(), end > offset ? end - offset : 0);
    auto here = offset < bytes.size() ? std::min<std::uint64_t>(count, bytes.size() - offset) : 0;
    if (here != 0) std::memcpy(into.data(), bytes.data() + offset, here);
    return count;
  }

  bool is_in_memory(std::uint32_t file, std::uint64_t offset, std::uint64_t) const override {
    return in_memory && in_memory(file, offset);
  }

  std::unique_ptr<source::Reader> make_reader(const source::ReaderOptions& options) const override {
    return reader ? reader(options) : source::make_blocking_reader(*this);
  }

  Result<> check_unchanged() const override {
    if (changed) return fail(ErrorKind::corrupt, "{} was changed", manifest_.files[0].path);
    return {};
  }

 private:
  weights::Manifest manifest_;
  std::vector<std::vector<std::byte>> files_;
};

/// Files with headers of any length, tensors of any size (many empty, some of several pieces), back to back.
inline MemorySource random_source(std::mt19937& random, std::uint64_t largest_tensor_bytes) {
  weights::Manifest manifest;
  std::vector<std::vector<std::byte>> files;
  const auto file_count = 1 + random() % 4;
  for (std::uint32_t file = 0; file < file_count; ++file) {
    std::uint64_t at = 8 + random() % (random() % 3 == 0 ? 20'000 : 300);
    manifest.files.push_back({.path = fmt::format("/w/model-{}.safetensors", file), .data_begin = at, .stamp = "s"});
    const auto tensors = random() % 12;
    for (unsigned i = 0; i < tensors; ++i) {
      std::uint64_t bytes = random() % 4 == 0 ? 0 : random() % 9000;
      if (random() % 20 == 0) bytes = random() % (largest_tensor_bytes + 1);
      manifest.tensors.push_back({.name = fmt::format("f{}.t{}", file, i),
                                  .dtype = weights::Dtype::u8,
                                  .shape = {bytes},
                                  .extent = {file, at, bytes}});
      at += bytes;
    }
    manifest.files.back().bytes = at;
    auto& content = files.emplace_back(at);
    for (std::uint64_t i = 0; i < at; i += 4) {
      auto word = static_cast<std::uint32_t>(random());
      std::memcpy(content.data() + i, &word, std::min<std::uint64_t>(4, at - i));
    }
  }
  return {std::move(manifest), std::move(files)};
}

}  // namespace ckptd::test
