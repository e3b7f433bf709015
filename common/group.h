// Groups of this machine, by name or number.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/result.h"

namespace ckptd {

/// Our own when `group` is empty. invalid_argument, with `key` as who named it, when there is no such group.
Result<gid_t> gid_of(const std::string& group, const std::string& key);

}  // namespace ckptd
