// One process for one directory: flock(2) on a file in it, which holds the pid for people.
//
// The kernel lets go when the process ends, however it ends; the file stays and means nothing by itself.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd {

/// Holds the lock as long as the descriptor is open. Never waits: unavailable, with the pid, when another holds it.
/// `role` and `flag` are for that sentence: "state directory", "--state-dir".
Result<UniqueFd> lock_directory(const std::filesystem::path& directory, std::string_view role, std::string_view flag);

}  // namespace ckptd
