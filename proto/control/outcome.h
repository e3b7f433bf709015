// The one table from kinds of errors to HTTP statuses and ckptctl's exit codes. The manual page prints it.
#pragma once

#include <span>
#include <string_view>

#include "common/result.h"

namespace ckptd::proto::control {

struct Outcome {
  ErrorKind kind;
  unsigned http_status;
  int exit_code;
  std::string_view meaning;  ///< for people, half a line
};

inline constexpr int kExitSuccess = 0;
inline constexpr int kExitUsage = 2;      ///< the command line itself is wrong
inline constexpr int kExitDetached = 130; ///< Ctrl-C: the job goes on

std::span<const Outcome> outcomes();
const Outcome& outcome_of(ErrorKind kind);

}  // namespace ckptd::proto::control
