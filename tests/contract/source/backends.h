// The sources that tests/contract/source_contract.h is instantiated for: the safetensors source over each layout, with
// and without direct reads.
#pragma once

#include <filesystem>

#include "daemon/source/source.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"

namespace ckptd::tests {

/// Where the checkpoint was written, under which path it is opened.
struct Written {
  std::filesystem::path path;
  Shards shards;
};

inline Shards two_shards() {
  return {{random_tensor("model.embed_tokens.weight", "BF16", {100, 130}),
           random_tensor("model.norm.weight", "F32", {65}), random_tensor("mask", "BOOL", {3})},
          {random_tensor("model.layers.0.weight", "F8_E4M3", {7, 2341}), random_tensor("scale", "F32", {}),
           random_tensor("nothing", "I64", {0, 3})}};
}

inline Shards one_shard() {
  auto shards = two_shards();
  shards[0].insert(shards[0].end(), shards[1].begin(), shards[1].end());
  shards.pop_back();
  return shards;
}

struct OneFile {
  static Written write(const Folder& folder) {
    write_checkpoint(folder / "one", one_shard(), false);
    return {folder / "one/model.safetensors", one_shard()};
  }
};

struct DirectoryOfOne {
  static Written write(const Folder& folder) {
    write_checkpoint(folder / "one", one_shard(), false);
    return {folder / "one", one_shard()};
  }
};

struct PlainShards {
  static Written write(const Folder& folder) {
    write_checkpoint(folder / "plain", two_shards(), false);
    return {folder / "plain", two_shards()};
  }
};

struct IndexedShards {
  static Written write(const Folder& folder) {
    write_checkpoint(folder / "indexed", two_shards(), true);
    write_file(folder / "indexed/consolidated.safetensors", "not listed, so not read");
    return {folder / "indexed", two_shards()};
  }
};

struct HubSnapshot {
  static Written write(const Folder& folder) {
    return {write_hub_cache(folder / "hub", "0123abcd", files_of(two_shards(), true)), two_shards()};
  }
};

struct HubFile {
  static Written write(const Folder& folder) {
    const auto snapshot = write_hub_cache(folder / "hub", "0123abcd", files_of(one_shard(), false));
    return {snapshot / "model.safetensors", one_shard()};
  }
};

template <class WrittenAs, bool kDirect, bool kInMemory = false>
class SafetensorsBackend {
 public:
  SafetensorsBackend()
      : folder_(kInMemory ? memory_directory() : "/tmp"), written_(WrittenAs::write(folder_)) {
    for (const auto& shard : written_.shards) tensors_.insert(tensors_.end(), shard.begin(), shard.end());
  }

  Result<std::unique_ptr<source::Source>> open() {
    auto source = source::open("file://" + written_.path.string(), {.roots = {folder_.path()}, .direct_io = kDirect});
    // What is in memory is copied, direct or not: direct reads need a disk.
    if (kDirect && source)
      for (const auto& file : (*source)->manifest().files) drop_from_page_cache(file.path);
    return source;
  }
  const std::vector<TestTensor>& tensors() const { return tensors_; }
  std::string content(const weights::File& file) const { return read_file(file.path); }

  void truncate(const weights::File& file, std::uint64_t bytes) { std::filesystem::resize_file(file.path, bytes); }
  void rewrite(const weights::File& file) {
    auto bytes = read_file(file.path);
    bytes.back() = static_cast<char>(~bytes.back());
    rewrite_in_place(file.path, bytes);
  }
  void replace(const weights::File& file) {
    const auto beside = folder_ / "new";
    write_file(beside, read_file(file.path));
    std::filesystem::last_write_time(beside, std::filesystem::last_write_time(file.path));
    std::filesystem::rename(beside, file.path);
  }

 private:
  Folder folder_;
  Written written_;
  std::vector<TestTensor> tensors_;
};

}  // namespace ckptd::tests
