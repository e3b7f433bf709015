// model.safetensors.index.json: which shard holds which tensor. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/weights/manifest.h"

namespace ckptd::source {

inline constexpr std::uint64_t kIndexLimitBytes = 100'000'000;

struct Index {
  struct Entry {
    std::string tensor;
    std::string shard;  ///< a plain file name in the index's own directory
  };
  std::vector<Entry> entries;  ///< in the order of tensors' names, each once

  std::vector<std::string> shards() const;  ///< sorted, each once
};

/// corrupt unless it is an object whose weight_map maps at least one name to a shard beside the index. Other members,
/// such as metadata, are the writer's own and not looked at. The sentence leaves the index's name to the caller.
Result<Index> parse_index(std::span<const std::byte> text);

/// corrupt, naming tensor and files, if two files define the same tensor.
Result<> check_defined_once(const weights::Manifest& manifest);

/// corrupt unless the files hold exactly the tensors that the index lists, each in the shard where it says. A tensor
/// that is not listed is refused as well: engines would skip it or not, depending on how they read.
Result<> check_agreement(const Index& index, const weights::Manifest& manifest);

}  // namespace ckptd::source
