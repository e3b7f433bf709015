// A loaded model against a checkpoint on disk, byte for byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "tests/support/reference_rank/model.h"

namespace ckptd::reference_rank {

struct Comparison {
  std::string difference;  ///< empty: equal. "tensor x: byte 17 is 3f, the checkpoint has 40"
  std::uint64_t tensors = 0, bytes = 0;
};

/// Names both ways, dtypes, shapes, bytes; stops at the first difference. Throws when the checkpoint cannot be read.
Comparison compare(const Model& model, const std::filesystem::path& checkpoint);

}  // namespace ckptd::reference_rank
