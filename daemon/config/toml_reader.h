// TOML into Nodes. The only place that knows the library.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/config/node.h"

namespace ckptd::config {

/// The top table. Errors name `file`, line and column.
Result<Node> read_toml(std::string_view text, const std::string& file);

}  // namespace ckptd::config
