// Whole small files, read with a bound and written so that a crash leaves the old or the new content, never half.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd {

/// Reads a regular file of at most `limit_bytes`. Also for /proc and /sys, whose files claim to be empty.
Result<std::string> read_small_file(const std::filesystem::path& path, std::uint64_t limit_bytes = 1 << 20);

/// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the directory.
Result<> write_file_atomically(const std::filesystem::path& path, std::string_view content, unsigned mode = 0640);

}  // namespace ckptd
