// The file that holds an engine's key.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::fleet {

/// The key in the file, without the newline that editors and echo put behind it. Read whenever it is needed: who replaces
/// the file rotates the key. `what` is what the file is for, as in "API key". denied, with what to do and never with
/// anything of the content, for a file that is missing, unreadable, empty, readable for everybody on the machine, or that
/// holds what cannot stand in an HTTP header.
Result<std::string> read_key_file(std::string_view what, const std::string& path);

}  // namespace ckptd::fleet
