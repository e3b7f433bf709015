// Ctrl-C and SIGTERM as a stop token.
//
// While an object of this class lives, the first such signal stops the token and the second ends the process at once
// with the exit code of detaching. It has to be made before any other thread: it blocks the signals in the thread that
// makes it, and later threads inherit that. A signal that was being ignored when we were started stays ignored.
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>

#include "common/result.h"

namespace ckptd::ctl {

class Interrupts {
 public:
  static Result<std::unique_ptr<Interrupts>> watch();
  virtual ~Interrupts() = default;

  virtual std::stop_token token() const = 0;

  /// Blocks for `span`, or until the token is stopped.
  static void pause(std::stop_token stop, std::chrono::milliseconds span);
};

}  // namespace ckptd::ctl
