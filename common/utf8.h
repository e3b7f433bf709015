// UTF-8 as Python decodes it strictly (no overlong forms, no surrogates, nothing above U+10FFFF), and texts of others
// made fit for a message. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ckptd {

/// How many bytes from the start are whole, valid characters.
std::size_t utf8_prefix_bytes(std::string_view text);
bool is_utf8(std::string_view text);

/// Each byte that begins no valid sequence becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// What somebody else wrote, as a sentence may quote it: valid UTF-8 without control characters, so that it can neither
/// break a log's lines nor drive a terminal; of a long text `limit_bytes` and "...".
std::string shown(std::string_view text, std::size_t limit_bytes = 200);

}  // namespace ckptd
