// What servers tell of themselves, read member by member. Pure. Their answers have many members that come and go with
// versions, so what is missing, or of another type than it was, counts as not told.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace ckptd::proto::answer {

/// Empty unless it is a text.
std::string text_at(const nlohmann::json& object, const char* name);
/// False unless it is true.
bool truth_at(const nlohmann::json& object, const char* name);
/// `otherwise` unless it is a whole number from 1 to 1,000,000: a size or a count of what a server has.
unsigned count_at(const nlohmann::json& object, const char* name, unsigned otherwise);

}  // namespace ckptd::proto::answer
