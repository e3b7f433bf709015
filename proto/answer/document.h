// A server's answer as JSON. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace ckptd::proto::answer {

/// Discarded (nlohmann::json::is_discarded) when it is no JSON, or when it has more than 64 levels of nesting: copying a
/// value and writing it take stack for each level, and no server answers us with a tenth of what would end the process.
nlohmann::json document_in(std::string_view body);

}  // namespace ckptd::proto::answer
