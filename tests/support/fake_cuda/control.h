// Handles on the library from a test program. The backend under test opens the same file, so it is the same library.
#pragma once

#include <cstdlib>

#include "tests/support/fake_cuda/fake_cuda.h"
#include "tests/support/opened_cuda.h"

namespace ckptd::tests {

/// tests/support/fake_cuda, with four GPUs, the last of them divided, unless the environment says otherwise.
class FakeCuda : public OpenedCuda {
 public:
  static FakeCuda& get() {
    static FakeCuda fake;
    return fake;
  }
  static const char* path() { return CKPTD_FAKE_CUDA_LIBRARY; }

  const decltype(&fake_cuda_fail) fail = find<decltype(&fake_cuda_fail)>("fake_cuda_fail");
  const decltype(&fake_cuda_fail_nothing) fail_nothing = find<decltype(&fake_cuda_fail_nothing)>("fake_cuda_fail_nothing");
  const decltype(&fake_cuda_gather) gather = find<decltype(&fake_cuda_gather)>("fake_cuda_gather");
  const decltype(&fake_cuda_gathered) gathered = find<decltype(&fake_cuda_gathered)>("fake_cuda_gathered");
  const decltype(&fake_cuda_calls) calls = find<decltype(&fake_cuda_calls)>("fake_cuda_calls");
  const decltype(&fake_cuda_set_memory) set_memory = find<decltype(&fake_cuda_set_memory)>("fake_cuda_set_memory");
  const decltype(&fake_cuda_pause) pause = find<decltype(&fake_cuda_pause)>("fake_cuda_pause");
  const decltype(&fake_cuda_complaints) complaints = find<decltype(&fake_cuda_complaints)>("fake_cuda_complaints");
  const decltype(&fake_cuda_last_complaint) last_complaint = find<decltype(&fake_cuda_last_complaint)>("fake_cuda_last_complaint");
  const decltype(&fake_cuda_forget_complaints) forget_complaints = find<decltype(&fake_cuda_forget_complaints)>("fake_cuda_forget_complaints");
  const decltype(&fake_cuda_objects) objects = find<decltype(&fake_cuda_objects)>("fake_cuda_objects");
  const decltype(&fake_cuda_revive) revive = find<decltype(&fake_cuda_revive)>("fake_cuda_revive");

 private:
  FakeCuda() : OpenedCuda((::setenv("CKPTD_FAKE_CUDA_DEVICES", "4", 0), ::setenv("CKPTD_FAKE_CUDA_MIG", "3", 0), path())) {}
};

}  // namespace ckptd::tests
