// UTF-8 as Python decodes it strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <string>
#include <string_view>

namespace ckptd::proto::checkpoint_engine {

bool is_utf8(std::string_view text);

/// Each byte that begins no valid sequence becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace ckptd::proto::checkpoint_engine
