// What would be a Python exception in a real worker.
#pragma once

#include <stdexcept>
#include <string>

namespace ckptd::reference_rank {

class PythonError : public std::runtime_error {
 public:
  PythonError(const std::string& type, const std::string& message) : runtime_error(type + ": " + message) {}

  std::string traceback() const {
    return std::string("Traceback (most recent call last):\n  File \"reference_rank\", line 1, in update\n") + what() +
           "\n";
  }
};

}  // namespace ckptd::reference_rank
