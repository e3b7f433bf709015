// What somebody may have meant by a name that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ckptd::config {

/// "did you mean 'budget'?" when one is near, else "there are: ..." with all of them.
std::string suggestion(std::string_view unknown, const std::vector<std::string>& known);

}  // namespace ckptd::config
