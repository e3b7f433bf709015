// JSON that came from a file, parsed within bounds. Pure.
#pragma once

#include <simdjson.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/utf8.h"

namespace ckptd::source {

/// The element lives as long as `parser` and until its next use. corrupt for anything that is not one JSON value in
/// UTF-8, with the byte where UTF-8 ends; nesting is bounded by the parser. `first_byte` is where `text` begins in its
/// file.
Result<simdjson::dom::element> parse_json(simdjson::dom::parser& parser, std::span<const std::byte> text,
                                          std::uint64_t first_byte);

/// Some text that stands in `keys` more than once. Takes n log n steps for any input, which a hash table would not.
std::optional<std::string_view> repeated(std::vector<std::string_view> keys);

}  // namespace ckptd::source
