// JSON that came from a file: parsed within bounds, and texts of it made fit for a message. Pure.
#pragma once

#include <simdjson.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace ckptd::source {

/// The element lives as long as `parser` and until its next use. corrupt for anything that is not one JSON value in
/// UTF-8, with the byte where UTF-8 ends; nesting is bounded by the parser. `first_byte` is where `text` begins in its
/// file.
Result<simdjson::dom::element> parse_json(simdjson::dom::parser& parser, std::span<const std::byte> text,
                                          std::uint64_t first_byte);

/// A text of the input as a message may carry it: valid UTF-8 without control characters, at most 200 bytes of it.
std::string shown(std::string_view text);

/// Whether a text has only whole UTF-8 characters: an escape in JSON can name half a surrogate pair.
bool is_utf8(std::string_view text);

/// Some text that stands in `keys` more than once. Takes n log n steps for any input, which a hash table would not.
std::optional<std::string_view> repeated(std::vector<std::string_view> keys);

}  // namespace ckptd::source
