// A configuration in the making: values, and where each was said, for the errors that concern two of them.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/config/config.h"

namespace ckptd::config {

struct Draft {
  Config config;
  std::string file;                            ///< empty when there is none
  std::map<std::string, std::string> origins;  ///< key -> "/etc/ckptd.toml:3:1" or "--lock"; defaults have none
};

/// Applies the file over what is there.
Result<> read_file(const std::string& file, Draft& draft);
/// The same for a file's text; `file` is its name in errors.
Result<> read_text(std::string_view text, const std::string& file, Draft& draft);

/// What no key can check alone. Call it last.
Result<> check(const Draft& draft);

}  // namespace ckptd::config
