// fill() from files on a disk, through each way in which their bytes can come: queued, with pread, from the page cache.
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "daemon/prefetch/prefetch.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/prefetch/filled_memory.h"

using namespace ckptd;
using namespace ckptd::prefetch;
using namespace ckptd::tests;
using Catch::Matchers::Contains;
using test::FilledMemory;
using weights::kBlockBytes;

namespace {

namespace fs = std::filesystem;

enum class Way { queued, pread, cached, page_cache_only };

/// A source that does something to its files when the n-th block is about to be read.
class Interrupted final : public source::Source {
 public:
  Interrupted(const source::Source& source, int block, std::function<void()> what)
      : source_(source), block_(block), what_(std::move(what)) {}
  const weights::Manifest& manifest() const override { return source_.manifest(); }
  Result<std::uint64_t> read(std::uint32_t file, std::uint64_t offset, std::span<std::byte> into) const override {
    return source_.read(file, offset, into);
  }
  bool is_in_memory(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) const override {
    if (asked_++ == block_) what_();
    return source_.is_in_memory(file, offset, bytes);
  }
  std::unique_ptr<source::Reader> make_reader(const source::ReaderOptions& options) const override {
    return source_.make_reader(options);
  }
  Result<> check_unchanged() const override { return source_.check_unchanged(); }

 private:
  const source::Source& source_;
  mutable std::atomic<int> asked_ = 0;
  int block_;
  std::function<void()> what_;
};

std::unique_ptr<source::Source> open(const fs::path& path, Way way) {
  auto source = source::open(path.string(), {.roots = {}, .direct_io = way != Way::page_cache_only});
  REQUIRE(source);
  for (const auto& file : (*source)->manifest().files) {
    if (way == Way::cached) read_file(file.path);
    else drop_from_page_cache(file.path);
  }
  return std::move(*source);
}

Options options_for(Way way, std::uint64_t read_bytes) {
  return {.readers = 2, .hashers = 1, .io_uring = way != Way::pread, .read_bytes = read_bytes};
}

std::vector<weights::Digest> digests_of(const weights::Manifest& manifest, const Shards& shards) {
  std::map<std::string, const TestTensor*> by_name;
  for (const auto& shard : shards)
    for (const auto& tensor : shard) by_name[tensor.name] = &tensor;
  std::vector<weights::Digest> digests;
  for (const auto& tensor : manifest.tensors) {
    std::vector<weights::Digest> pieces;
    const auto bytes = std::as_bytes(std::span(by_name.at(tensor.name)->bytes));
    for (std::size_t at = 0; at < bytes.size(); at += weights::kDigestPieceBytes)
      pieces.push_back(weights::digest_of(bytes.subspan(at, std::min(bytes.size() - at, weights::kDigestPieceBytes))));
    digests.push_back(weights::combine_pieces(pieces));
  }
  return digests;
}

}  // namespace

TEST_CASE("files of any size, with tensors at any byte, give the same digests whichever way they come") {
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  Folder folder;
  // The last tensor makes the file end at, before or behind a border of a block, a read or a piece.
  constexpr std::uint64_t kBorders[] = {kBlockBytes, 3 * kBlockBytes, kMiB, weights::kDigestPieceBytes, 2 * weights::kDigestPieceBytes};
  for (int round = 0; round < 3; ++round) {
    Shards shards;
    for (std::size_t shard = 0; shard < 3; ++shard) {
      auto& tensors = shards.emplace_back();
      const auto name = [&](const char* what) { return fmt::format("{}.{}", what, shard); };
      tensors.push_back(random_tensor(name("odd"), "U8", {1 + random() % 70'000}));
      tensors.push_back(random_tensor(name("nothing"), "F32", {0, 7}));
      const auto border = kBorders[(static_cast<std::size_t>(round) + shard) % std::size(kBorders)];
      tensors.push_back(random_tensor(name("border"), "U8", {border - 2 + random() % 5 - random() % 4096}));
    }
    write_checkpoint(folder / fmt::format("c{}", round), shards, true);
    for (auto way : {Way::queued, Way::pread, Way::cached, Way::page_cache_only}) {
      INFO("seed " << seed << ", round " << round << ", way " << static_cast<int>(way));
      const auto source = open(folder / fmt::format("c{}", round), way);
      FilledMemory memory(*source, 256 * kBlockBytes);
      Progress progress;
      auto filled = fill(*source, memory.layout, memory.reservation, options_for(way, 70'000), progress, {});
      if (!filled) FAIL(filled.error().sentence);
      // What was in the page cache a moment ago is, unless the kernel needed the memory.
      for (int again = 0; way == Way::cached && filled->cached_bytes < filled->read_bytes && again < 5; ++again) {
        for (const auto& file : source->manifest().files) read_file(file.path);
        filled = fill(*source, memory.layout, memory.reservation, options_for(way, 70'000), progress, {});
        if (!filled) FAIL(filled.error().sentence);
      }
      CHECK((filled->tensor_digests == digests_of(source->manifest(), shards)));
      CHECK(filled->read_bytes >= source->manifest().tensor_bytes());
      if (way == Way::cached) CHECK(filled->cached_bytes == filled->read_bytes);
      if (way == Way::pread || way == Way::page_cache_only) CHECK(filled->backend == "pread");
      for (const auto& tensor : source->manifest().tensors) {
        const auto& path = source->manifest().files[tensor.extent.file].path;
        if (tensor.extent.bytes == 0 || tensor.extent.bytes > 100'000) continue;
        std::string there;
        for (std::uint64_t at = 0; at < tensor.extent.bytes; ++at)
          there += static_cast<char>(*memory.at(memory.layout.resting_offset(tensor.extent) + at));
        CHECK((there == read_file(path).substr(tensor.extent.offset, tensor.extent.bytes)));
      }
    }
  }
}

TEST_CASE("files that are changed while they are loaded are corrupt, by name, whichever way they come") {
  const auto tensor = random_tensor("t", "U8", {100 * kBlockBytes + 5});
  for (auto way : {Way::queued, Way::pread, Way::cached, Way::page_cache_only})
    for (int block : {0, 7, 24})
      for (const std::string change : {"cut in the middle", "emptied", "cut by a byte", "extended", "replaced", "written"}) {
        INFO("way " << static_cast<int>(way) << ", block " << block << ", " << change);
        Folder folder;
        write_checkpoint(folder / "c", {{tensor}}, false);
        const auto path = folder / "c/model.safetensors";
        const auto bytes = fs::file_size(path);
        const auto source = open(folder / "c", way);
        FilledMemory memory(*source, 1024 * kBlockBytes);
        const Interrupted interrupted(*source, block, [&] {
          if (change == "cut in the middle") fs::resize_file(path, bytes / 2 + 100);
          if (change == "emptied") fs::resize_file(path, 0);
          if (change == "cut by a byte") fs::resize_file(path, bytes - 1);
          if (change == "extended") fs::resize_file(path, bytes + 10'000);
          if (change == "written") rewrite_in_place(path, read_file(path));
          if (change != "replaced") return;
          write_file(folder / "other", read_file(path));
          fs::rename(folder / "other", path);
        });
        Progress progress;
        const auto filled = fill(interrupted, memory.layout, memory.reservation, options_for(way, 4 * kBlockBytes), progress, {});
        REQUIRE_FALSE(filled);
        CHECK(filled.error().kind == ErrorKind::corrupt);
        CHECK_THAT(filled.error().sentence, Contains(path.string()));
        // Nothing of it is still on its way.
        std::memset(memory.at(0), 0x11, 100 * kBlockBytes);
        CHECK(std::all_of(memory.at(0), memory.at(0) + 100 * kBlockBytes, [](std::byte each) { return each == std::byte{0x11}; }));
      }
}

TEST_CASE("a load that is cancelled among its queued reads leaves the memory alone when it returns") {
  Folder folder;
  write_checkpoint(folder / "c", {{random_tensor("t", "U8", {4 * kMiB})}}, false);
  for (auto way : {Way::queued, Way::pread, Way::cached})
    for (int block : {0, 3, 10}) {
      const auto source = open(folder / "c", way);
      FilledMemory memory(*source, 8 * kMiB);
      std::stop_source stop;
      const Interrupted interrupted(*source, block, [&] { stop.request_stop(); });
      Progress progress;
      const auto filled = fill(interrupted, memory.layout, memory.reservation, options_for(way, kMiB / 4), progress, stop.get_token());
      std::memset(memory.at(0), 0x11, 4 * kMiB);
      REQUIRE_FALSE(filled);
      CHECK(filled.error().kind == ErrorKind::cancelled);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      CHECK((std::string_view(reinterpret_cast<const char*>(memory.at(0)), 4 * kMiB) == std::string(4 * kMiB, 0x11)));
    }
}
