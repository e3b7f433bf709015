// A libcuda, whichever, as tests open it beside the backend under test.
#pragma once

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace ckptd::tests {

/// The functions of one libcuda that tests need beside those that the backend uses.
class OpenedCuda {
 public:
  explicit OpenedCuda(const std::string& path) : library_(::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {}

  bool opened() const { return library_ != nullptr; }

  /// find<decltype(&cuMemcpy)>("cuMemcpy"). Ends the program if there is no such function.
  template <class Function>
  Function find(const char* symbol) const {
    void* found = ::dlsym(library_, symbol);
    if (found == nullptr) {
      std::fprintf(stderr, "the library lacks %s\n", symbol);
      std::abort();
    }
    return reinterpret_cast<Function>(found);
  }

 private:
  void* library_;
};

}  // namespace ckptd::tests
