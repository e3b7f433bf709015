// A list of tensors, as bench/models.py prints it, as the manifest of a checkpoint that has these and no bytes.
#pragma once

#include <filesystem>

#include "common/result.h"
#include "daemon/weights/manifest.h"

namespace ckptd::bench {

/// Reads one JSON object a line, {"name", "dtype", "shape", "shard"}: shards become files, whose tensors lie back to
/// back behind a header of about the size that safetensors would need.
Result<weights::Manifest> read_tensor_list(const std::filesystem::path& path);

}  // namespace ckptd::bench
