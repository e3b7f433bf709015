// The fake NCCL over the streams of a libcuda whose device memory this process can touch: that of tests/support/fake_cuda.
#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/support/fake_nccl/fake_nccl.h"

namespace {

struct Cuda {
  decltype(&cuCtxPushCurrent_v2) push = nullptr;
  decltype(&cuCtxPopCurrent_v2) pop = nullptr;
  decltype(&cuEventCreate) event_create = nullptr;
  decltype(&cuEventDestroy_v2) event_destroy = nullptr;
  decltype(&cuEventRecord) event_record = nullptr;
  decltype(&cuStreamWaitEvent) stream_wait_event = nullptr;
  decltype(&cuLaunchHostFunc) launch_host_function = nullptr;
};
Cuda cuda;

template <class Function>
void find(void* library, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, symbol));
  if (function != nullptr) return;
  std::fprintf(stderr, "fake NCCL: libcuda lacks %s\n", symbol);
  std::abort();
}

/// Makes a context current as NCCL does itself, whatever is current in the caller.
class Current {
 public:
  explicit Current(void* context) : entered_(cuda.push(static_cast<CUcontext>(context)) == CUDA_SUCCESS) {}
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    CUcontext context = nullptr;
    if (entered_) cuda.pop(&context);
  }

 private:
  const bool entered_;
};

int outcome(CUresult code) { return code == CUDA_SUCCESS ? 0 : 1; }

/// The current context, which a pop shows.
void* current_device(void*) {
  CUcontext context = nullptr;
  if (cuda.pop(&context) != CUDA_SUCCESS || context == nullptr) return nullptr;
  cuda.push(context);
  return context;
}

void* make_event(void*, void* device) {
  const Current current(device);
  CUevent event = nullptr;
  return cuda.event_create(&event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS ? event : nullptr;
}

void destroy_event(void*, void* device, void* event) {
  const Current current(device);
  cuda.event_destroy(static_cast<CUevent>(event));
}

int record(void*, void* device, void* stream, void* event) {
  const Current current(device);
  return outcome(cuda.event_record(static_cast<CUevent>(event), static_cast<CUstream>(stream)));
}

int wait(void*, void* device, void* stream, void* event) {
  const Current current(device);
  return outcome(cuda.stream_wait_event(static_cast<CUstream>(stream), static_cast<CUevent>(event), 0));
}

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  const std::atomic<bool>* cut;
};

void carry_out(void* data) {
  const auto* copy = static_cast<Copy*>(data);
  if (!*copy->cut) std::memcpy(copy->to, copy->from, copy->bytes);
  delete copy;
}

int copy(void*, void* device, void* stream, void* to, const void* from, std::size_t bytes,
         const std::atomic<bool>* cut) {
  const Current current(device);
  return outcome(
      cuda.launch_host_function(static_cast<CUstream>(stream), &carry_out, new Copy{to, from, bytes, cut}));
}

int run(void*, void* device, void* stream, void (*work)(void*), void* data) {
  const Current current(device);
  return outcome(cuda.launch_host_function(static_cast<CUstream>(stream), work, data));
}

constexpr FakeNcclStreams kStreams{nullptr, current_device, make_event, destroy_event, record, wait, copy, run};

}  // namespace

extern "C" const FakeNcclStreams* fake_nccl_cuda_streams(const char* library) {
  void* opened = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    std::fprintf(stderr, "fake NCCL: %s cannot be opened\n", library);
    std::abort();
  }
  find(opened, "cuCtxPushCurrent_v2", cuda.push);
  find(opened, "cuCtxPopCurrent_v2", cuda.pop);
  find(opened, "cuEventCreate", cuda.event_create);
  find(opened, "cuEventDestroy_v2", cuda.event_destroy);
  find(opened, "cuEventRecord", cuda.event_record);
  find(opened, "cuStreamWaitEvent", cuda.stream_wait_event);
  find(opened, "cuLaunchHostFunc", cuda.launch_host_function);
  return &kStreams;
}
