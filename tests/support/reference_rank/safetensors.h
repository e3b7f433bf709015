// A minimal reader of safetensors for comparisons: slow, trusting its files, and independent of daemon/source.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace ckptd::reference_rank {

struct StoredTensor {
  std::string dtype;  ///< "BF16"
  std::vector<std::int64_t> shape;
  std::filesystem::path file;
  std::uint64_t offset = 0, bytes = 0;
};

/// One file, or a directory: the shards of its index if it has one, else all its *.safetensors. Throws.
std::map<std::string, StoredTensor> read_checkpoint(const std::filesystem::path& path);

std::vector<char> read_bytes(const StoredTensor& tensor);

}  // namespace ckptd::reference_rank
