// A directory, as somebody typed it, becomes the URI that the daemon opens.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::ctl {

/// "models/a b" -> "file:///home/me/models/a%20b". What is a URI already stays as it is.
///
/// Symbolic links are not followed: the daemon shall open the name that was given, which may point elsewhere tomorrow.
/// "." and doubled slashes go, and so does ".." where the directory before it is no link; behind a link it stays,
/// because there it means the parent of what the link points to.
Result<std::string> source_uri(std::string_view directory);

}  // namespace ckptd::ctl
