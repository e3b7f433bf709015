// The command line. The only place that knows the library.
#pragma once

#include <map>
#include <string>

#include "common/result.h"

namespace ckptd::config {

struct Flags {
  std::string config_file;                    ///< empty: none was given
  bool check = false;
  std::string answer;                         ///< what --help or --version asked for; then nothing else matters
  std::map<std::string, std::string> values;  ///< flag of config_keys() -> its text
};

/// Errors name the flag; of an unknown one they show the nearest.
Result<Flags> read_flags(int argc, const char* const* argv);

}  // namespace ckptd::config
