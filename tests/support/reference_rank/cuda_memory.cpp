#include "tests/support/reference_rank/cuda_memory.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/support/reference_rank/python_error.h"

namespace ckptd::reference_rank {
namespace {

using Pointer = unsigned long long;
struct Handle {
  char bytes[64];
};
struct Uuid {
  unsigned char bytes[16];
};

std::string show(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i)
    text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid.bytes[i]);
  return text;
}

void check(int code, const char* what) {
  if (code != 0) throw PythonError("RuntimeError", fmt::format("CUDA error: {} gave {}", what, code));
}

}  // namespace

struct CudaMemory::Driver {
  void* library = nullptr;
  int ordinal = -1;
  void* context = nullptr;
  Pointer address = 0;
  std::vector<std::byte> copy;

  template <class... Arguments>
  int call(const char* name, Arguments... arguments) const {
    auto* function = reinterpret_cast<int (*)(Arguments...)>(::dlsym(library, name));
    if (function == nullptr) throw PythonError("RuntimeError", fmt::format("libcuda has no {}", name));
    return function(arguments...);
  }

  /// As torch.cuda.set_device() of the rank's own device, which is known by its UUID.
  void choose(const std::string& device) {
    int count = 0;
    check(call("cuDeviceGetCount", &count), "cuDeviceGetCount");
    for (int i = 0; i < count && ordinal < 0; ++i) {
      Uuid uuid{};
      check(call("cuDeviceGetUuid_v2", &uuid, i), "cuDeviceGetUuid_v2");
      if (device.ends_with(show(uuid))) ordinal = i;
    }
    if (ordinal < 0) throw PythonError("RuntimeError", "no CUDA device is " + device);
  }
};

CudaMemory::CudaMemory(const std::string& device, const std::string& handle, std::size_t bytes)
    : driver_(std::make_unique<Driver>()) {
  if (handle.size() != sizeof(Handle)) throw PythonError("RuntimeError", "a storage handle that is not 64 bytes");
  const char* named = std::getenv("CKPTD_RANK_CUDA_LIBRARY");
  auto& driver = *driver_;
  driver.library = ::dlopen(named != nullptr ? named : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver.library == nullptr) throw PythonError("RuntimeError", "a handle that only a GPU could open");
  check(driver.call("cuInit", 0U), "cuInit");
  driver.choose(device);
  check(driver.call("cuDevicePrimaryCtxRetain", &driver.context, driver.ordinal), "cuDevicePrimaryCtxRetain");
  check(driver.call("cuCtxPushCurrent_v2", driver.context), "cuCtxPushCurrent_v2");
  Handle raw{};
  std::memcpy(raw.bytes, handle.data(), sizeof raw);
  constexpr unsigned kLazyPeerAccess = 1;
  check(driver.call("cuIpcOpenMemHandle_v2", &driver.address, raw, kLazyPeerAccess), "cuIpcOpenMemHandle_v2");
  driver.copy.resize(bytes);
}

CudaMemory::~CudaMemory() {
  if (driver_->address != 0) driver_->call("cuIpcCloseMemHandle", driver_->address);
  void* popped = nullptr;
  driver_->call("cuCtxPopCurrent_v2", &popped);
  driver_->call("cuDevicePrimaryCtxRelease_v2", driver_->ordinal);
}

std::span<const std::byte> CudaMemory::content() {
  const auto to = reinterpret_cast<Pointer>(driver_->copy.data());
  check(driver_->call("cuMemcpy", to, driver_->address, driver_->copy.size()), "cuMemcpy");
  return driver_->copy;
}

}  // namespace ckptd::reference_rank
