// For what the daemon does by itself, on threads of its own.
#pragma once

#include <chrono>
#include <thread>

#include "common/deadline.h"

namespace ckptd::tests {

/// Waits until it holds; whether it does. Blocks for `patience` at most.
template <class Predicate>
bool soon(Predicate holds, std::chrono::milliseconds patience = std::chrono::seconds(10)) {
  const auto deadline = Deadline::in(patience);
  while (!holds()) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace ckptd::tests
