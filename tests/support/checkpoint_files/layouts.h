// Checkpoints on disk, in the ways in which people have them.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/checkpoint_files/safetensors.h"

namespace ckptd::tests {

using Shards = std::vector<std::vector<TestTensor>>;

/// "model.safetensors" for one shard, else "model-00001-of-00003.safetensors"; `number` counts from 0.
std::string shard_name(std::size_t number, std::size_t shards);

/// The text of an index with these (tensor, shard) pairs, in this order and as often as given.
std::string index_text(const std::vector<std::pair<std::string, std::string>>& weight_map);
std::string index_of(const Shards& shards);

/// Files by their names: the shards, and their index if there is to be one.
std::map<std::string, std::string> files_of(const Shards& shards, bool with_index);

/// Writes them into `directory`, which need not exist.
void write_checkpoint(const std::filesystem::path& directory, const Shards& shards, bool with_index);

/// As the hub's cache has it: CACHE/models--ORG--NAME/snapshots/REVISION/FILE -> ../../blobs/ID. Returns the snapshot's
/// directory.
std::filesystem::path write_hub_cache(const std::filesystem::path& cache, std::string_view revision,
                                      const std::map<std::string, std::string>& files);

}  // namespace ckptd::tests
