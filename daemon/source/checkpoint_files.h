// Which files make up the checkpoint that a path names. Reads directories and the index, no tensor's file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/source/index.h"
#include "daemon/source/uri.h"

namespace ckptd::source {

/// Files stay open while a source lives, two descriptors each; real checkpoints have a few hundred at most.
inline constexpr std::size_t kFilesLimit = 4096;

struct CheckpointFiles {
  std::filesystem::path directory;  ///< resolved: a link that is turned elsewhere during a load does no harm
  std::vector<std::string> names;   ///< in `directory`; sorted, at least one
  std::optional<Index> index;
  std::string index_name;

  std::filesystem::path index_path() const { return directory / index_name; }
};

/// A path to a file is that file alone. In a directory the index decides: model.safetensors.index.json, or else the
/// only *.safetensors.index.json. Without an index every *.safetensors belongs to it, as for SGLang and vLLM; names
/// that begin with a dot never do. Errors as source::open().
Result<CheckpointFiles> find_checkpoint_files(const std::filesystem::path& path, const Roots& roots);

}  // namespace ckptd::source
