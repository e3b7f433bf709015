// Completion of a half-typed command line, for shells: the scripts that `ckptctl completion SHELL` prints hand all
// words to `ckptctl __complete`, which answers from the very tables that parse them.
//
// Answers are one candidate a line; the line ":file" or ":directory" asks the shell to complete a path itself. Names of
// versions, engines and jobs are the daemon's, which is given a moment: no answer is no candidates, never an error.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace ckptd::ctl {

/// What a word stands for.
enum class Stands { free, version, checkpoint, engine, engine_kind, device, job, subject, shell, file, directory };

/// What could stand where the last word is.
struct Expected {
  Stands what = Stands::free;
  std::vector<std::string> words = {};  ///< fixed ones: commands, options
  std::string before = {};              ///< part of the last word that stays, as in --socket=
  std::string typed = {};               ///< the rest of the last word
  std::string socket;                   ///< the daemon to ask
};

/// Pure. `words` are those behind the program's name; the last one, which may be empty, is being typed.
Expected expected_at_end(const std::vector<std::string>& words);

/// Blocks for the daemon, for less than a second.
std::vector<std::string> candidates(const Expected& expected);

/// invalid_argument for a shell that we have no script for.
Result<std::string_view> completion_script(std::string_view shell);

}  // namespace ckptd::ctl
