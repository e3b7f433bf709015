// How answers and errors leave the program, in the one form for people and the one for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/result.h"
#include "ctl/client.h"
#include "ctl/console.h"

namespace ckptd::ctl {

/// Compact and ending in a line break; what is not UTF-8 is replaced.
std::string one_line(const nlohmann::json& object);

/// ckptctl: loading llama@3: the rank on HOST-1 failed
///     Traceback (most recent call last):
///     ...
///   job: update-18
///   hint: ckptctl job show update-18
std::string describe(const Error& error);

/// Prints the error: JSON on stdout, or sentences on stderr. The exit code of its kind.
int report(const Error& error, const Console& console, bool json);

}  // namespace ckptd::ctl
