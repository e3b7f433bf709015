// What stands behind the ? of a target, and in headers, as values.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::control {

using Parameters = std::map<std::string, std::string, std::less<>>;

/// "a=b&c=d%20e", decoded. Refuses, by name, parameters that are not in `known` and those that come twice.
Result<Parameters> parse_query(std::string_view query, std::span<const std::string_view> known);

/// "true" or "false"; absent is false.
Result<bool> flag(const Parameters& parameters, std::string_view name);

/// ?wait=SECONDS, 0 to 30; absent is 0.
Result<std::chrono::milliseconds> wait_of(const Parameters& parameters);

/// An Idempotency-Key: at most 128 printable ASCII characters. Absent is empty; present and empty is refused.
Result<std::string> idempotency_key(const std::map<std::string, std::string>& headers);

/// A Last-Event-ID, under the same rule.
Result<std::string> last_event_id(const std::map<std::string, std::string>& headers);

}  // namespace ckptd::control
