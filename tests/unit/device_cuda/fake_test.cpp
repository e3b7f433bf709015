// That the libcuda of tests/support/fake_cuda sees what it is there to see: no other test would notice if it did not.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/unit/device_cuda/fake.h"

namespace ckptd::device::cuda {
namespace {

constexpr const char* kHandleVariable = "CKPTD_TEST_HANDLE";
constexpr int kMapped = 42;

/// Calls of the driver, as the backend makes them, with GPU 0's context current.
class Calls {
 public:
  Calls() {
    REQUIRE(fake().find<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain")(&context_, 0) == CUDA_SUCCESS);
    REQUIRE(fake().find<decltype(&cuCtxPushCurrent_v2)>("cuCtxPushCurrent_v2")(context_) == CUDA_SUCCESS);
  }
  ~Calls() {
    CUcontext popped = nullptr;
    fake().find<decltype(&cuCtxPopCurrent_v2)>("cuCtxPopCurrent_v2")(&popped);
    fake().find<decltype(&cuDevicePrimaryCtxRelease_v2)>("cuDevicePrimaryCtxRelease_v2")(0);
  }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  template <class Function, class... Arguments>
  CUresult operator()(const char* name, Arguments... arguments) const {
    return fake().find<Function>(name)(arguments...);
  }

  static tests::FakeCuda& fake() { return CleanFake::fake(); }

 private:
  CUcontext context_ = nullptr;
};

std::string hexadecimal(const CUipcMemHandle& handle) {
  std::string text;
  for (const char byte : handle.reserved) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

/// This program again, which maps the memory, says so on its output and keeps it until its input ends.
class Mapper {
 public:
  explicit Mapper(const CUipcMemHandle& handle) {
    int in[2], out[2];
    REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    ::setenv(kHandleVariable, hexadecimal(handle).c_str(), 1);
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::execl("/proc/self/exe", "mapper", "another process maps memory", static_cast<char*>(nullptr));
      ::_exit(1);
    }
    ::unsetenv(kHandleVariable);
    ::close(in[0]);
    ::close(out[1]);
    to_ = in[1];
    char said = 0;
    while (said != kMapped && ::read(out[0], &said, 1) == 1) {
    }
    ::close(out[0]);
    REQUIRE(said == kMapped);
  }
  ~Mapper() { end(); }
  Mapper(const Mapper&) = delete;
  Mapper& operator=(const Mapper&) = delete;

  void end() {
    if (to_ < 0) return;
    ::close(to_);
    to_ = -1;
    int status = 0;
    ::waitpid(child_, &status, 0);
  }

 private:
  pid_t child_ = -1;
  int to_ = -1;
};

void hears(tests::FakeCuda& fake, const std::string& part) {
  CHECK(fake.complaints() == 1);
  INFO(fake.last_complaint());
  CHECK(std::string(fake.last_complaint()).find(part) != std::string::npos);
  fake.forget_complaints();
}

}  // namespace

// Not a test: what Mapper starts.
TEST_CASE("another process maps memory", "[.]") {
  const char* text = std::getenv(kHandleVariable);
  REQUIRE(text != nullptr);
  CUipcMemHandle handle{};
  for (std::size_t i = 0; i < sizeof handle.reserved; ++i)
    handle.reserved[i] = static_cast<char>(std::stoi(std::string(text + 2 * i, 2), nullptr, 16));
  const Calls call;
  CUdeviceptr at = 0;
  REQUIRE(call.operator()<decltype(&cuIpcOpenMemHandle_v2)>("cuIpcOpenMemHandle_v2", &at, handle, 1U) == CUDA_SUCCESS);
  const char mapped = kMapped;
  REQUIRE(::write(STDOUT_FILENO, &mapped, 1) == 1);
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  ::_exit(0);  // as a rank that is killed: nothing is closed
}

TEST_CASE("the fake driver sees that memory is freed which another process maps, and not once that one is gone") {
  CleanFake fake;
  const Calls call;
  for (const bool ended : {false, true}) {
    CAPTURE(ended);
    CUdeviceptr memory = 0;
    REQUIRE(call.operator()<decltype(&cuMemAlloc_v2)>("cuMemAlloc_v2", &memory, std::size_t{2 << 20}) == CUDA_SUCCESS);
    CUipcMemHandle handle{};
    REQUIRE(call.operator()<decltype(&cuIpcGetMemHandle)>("cuIpcGetMemHandle", &handle, memory) == CUDA_SUCCESS);
    Mapper mapper(handle);
    if (ended) mapper.end();
    REQUIRE(call.operator()<decltype(&cuMemFree_v2)>("cuMemFree_v2", memory) == CUDA_SUCCESS);
    if (ended)
      CHECK(fake->complaints() == 0);
    else
      hears(CleanFake::fake(), "another process still maps");
  }
}

TEST_CASE("the fake driver sees a stream and an event that are used after their end, also when others were made since") {
  CleanFake fake;
  const Calls call;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  REQUIRE(call.operator()<decltype(&cuStreamCreate)>("cuStreamCreate", &stream, unsigned{CU_STREAM_NON_BLOCKING}) == CUDA_SUCCESS);
  REQUIRE(call.operator()<decltype(&cuEventCreate)>("cuEventCreate", &event, 0U) == CUDA_SUCCESS);
  const auto destroy_stream = [&](CUstream which) { return call.operator()<decltype(&cuStreamDestroy_v2)>("cuStreamDestroy_v2", which); };
  const auto destroy_event = [&](CUevent which) { return call.operator()<decltype(&cuEventDestroy_v2)>("cuEventDestroy_v2", which); };
  REQUIRE(destroy_stream(stream) == CUDA_SUCCESS);
  REQUIRE(destroy_event(event) == CUDA_SUCCESS);
  CUstream next_stream = nullptr;
  CUevent next_event = nullptr;
  REQUIRE(call.operator()<decltype(&cuStreamCreate)>("cuStreamCreate", &next_stream, unsigned{CU_STREAM_NON_BLOCKING}) == CUDA_SUCCESS);
  REQUIRE(call.operator()<decltype(&cuEventCreate)>("cuEventCreate", &next_event, 0U) == CUDA_SUCCESS);
  CHECK(next_stream != stream);
  CHECK(next_event != event);

  CHECK(call.operator()<decltype(&cuEventRecord)>("cuEventRecord", next_event, stream) == CUDA_ERROR_INVALID_HANDLE);
  hears(CleanFake::fake(), "no more");
  CHECK(call.operator()<decltype(&cuEventRecord)>("cuEventRecord", event, next_stream) == CUDA_ERROR_INVALID_HANDLE);
  hears(CleanFake::fake(), "no more");
  CHECK(call.operator()<decltype(&cuStreamWaitEvent)>("cuStreamWaitEvent", next_stream, event, 0U) == CUDA_ERROR_INVALID_HANDLE);
  hears(CleanFake::fake(), "no more");
  CHECK(destroy_stream(stream) == CUDA_ERROR_INVALID_HANDLE);
  hears(CleanFake::fake(), "no more");
  CHECK(destroy_stream(next_stream) == CUDA_SUCCESS);
  CHECK(destroy_event(next_event) == CUDA_SUCCESS);
}

}  // namespace ckptd::device::cuda
