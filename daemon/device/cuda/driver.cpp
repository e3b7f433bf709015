#include "daemon/device/cuda/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <utility>

namespace ckptd::device::cuda {
namespace {

constexpr int kOldestVersion = 12'000;
constexpr const char* kDefaultLibrary = "libcuda.so.1";

template <class Function>
bool find(void* library, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, symbol));
  return function != nullptr;
}

/// What the next sentence is when cuInit fails: the code, whether time may cure it, and what a person does.
struct Cure {
  CUresult code;
  ErrorKind kind;
  const char* advice;
};

constexpr std::array kCures{
    Cure{CUDA_ERROR_NO_DEVICE, ErrorKind::unavailable,
         "the driver sees no GPU: look at `nvidia-smi -L`, at CUDA_VISIBLE_DEVICES, and whether /dev/nvidia0 and "
         "/dev/nvidiactl exist and may be opened by this user (nvidia-persistenced makes them at boot)"},
    Cure{CUDA_ERROR_SYSTEM_NOT_READY, ErrorKind::unavailable,
         "the system is not ready for CUDA: on machines with NVSwitch nvidia-fabricmanager has to run first "
         "(`systemctl status nvidia-fabricmanager`)"},
    Cure{CUDA_ERROR_UNKNOWN, ErrorKind::unavailable,
         "the driver does not say why: often nvidia-uvm is not loaded yet (`modprobe nvidia-uvm`, `ls /dev/nvidia-uvm`), "
         "or the kernel log tells"},
    Cure{CUDA_ERROR_DEVICE_UNAVAILABLE, ErrorKind::unavailable,
         "a GPU is held by somebody alone (compute mode) or being reset: see `nvidia-smi -q -d COMPUTE`"},
    Cure{CUDA_ERROR_OPERATING_SYSTEM, ErrorKind::unavailable,
         "the operating system refused the driver: look at the permissions of /dev/nvidia* and at the kernel log"},
    Cure{CUDA_ERROR_OUT_OF_MEMORY, ErrorKind::unavailable, "not even the driver itself got memory: free some"},
    Cure{CUDA_ERROR_NOT_PERMITTED, ErrorKind::denied, "this user may not use the GPU: look at /dev/nvidia*"},
    Cure{CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, ErrorKind::unsupported,
         "library and kernel module are of different driver versions, as after an update: reboot, or load the new module"},
    Cure{CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, ErrorKind::unsupported,
         "this library is a forward compatibility package that the GPU does not support: name the driver's own libcuda.so.1 "
         "in [cuda] library"},
    Cure{CUDA_ERROR_STUB_LIBRARY, ErrorKind::unsupported,
         "this library is the stub of a toolkit, for linking only: name the driver's own libcuda.so.1 in [cuda] library"},
};

/// After these nothing of the context works any more, whoever caused it. CUDA 12.0's header does not name them all.
constexpr std::array<unsigned, 20> kFencing{
    4,    // DEINITIALIZED
    46,   // DEVICE_UNAVAILABLE
    214,  // ECC_UNCORRECTABLE
    220,  // NVLINK_UNCORRECTABLE
    226,  // CONTAINED
    700,  // ILLEGAL_ADDRESS
    702,  // LAUNCH_TIMEOUT
    709,  // CONTEXT_IS_DESTROYED
    710,  // ASSERT
    714,  // HARDWARE_STACK_ERROR
    715,  // ILLEGAL_INSTRUCTION
    716,  // MISALIGNED_ADDRESS
    717,  // INVALID_ADDRESS_SPACE
    718,  // INVALID_PC
    719,  // LAUNCH_FAILED
    721,  // TENSOR_MEMORY_LEAK
    806,  // MPS_RPC_FAILURE
    810,  // MPS_CLIENT_TERMINATED
    911,  // EXTERNAL_DEVICE
    916,  // KEY_ROTATION
};

ErrorKind kind_of(CUresult code) {
  switch (code) {
    case CUDA_ERROR_OUT_OF_MEMORY: return ErrorKind::no_space;
    case CUDA_ERROR_NOT_PERMITTED: return ErrorKind::denied;
    case CUDA_ERROR_INVALID_DEVICE: return ErrorKind::not_found;
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: return ErrorKind::conflict;
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_PEER_ACCESS_UNSUPPORTED:
    case CUDA_ERROR_STUB_LIBRARY:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
    case CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: return ErrorKind::unsupported;
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_NOT_INITIALIZED:
    case CUDA_ERROR_SYSTEM_NOT_READY:
    case CUDA_ERROR_UNKNOWN:
    case CUDA_ERROR_MPS_CONNECTION_FAILED:
    case CUDA_ERROR_MPS_SERVER_NOT_READY:
    case CUDA_ERROR_MPS_MAX_CLIENTS_REACHED:
    case CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED: return ErrorKind::unavailable;
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_MAP_FAILED:
    case CUDA_ERROR_UNMAP_FAILED: return ErrorKind::io;
    case CUDA_ERROR_TIMEOUT: return ErrorKind::timed_out;
    default: return ErrorKind::internal;  // a handle, value or context that we should not have passed
  }
}

}  // namespace

Result<std::shared_ptr<const Driver>> Driver::open(const std::filesystem::path& library) {
  std::shared_ptr<Driver> driver(new Driver);
  driver->name_ = library.empty() ? kDefaultLibrary : library.string();
  void* handle = ::dlopen(driver->name_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    return std::unexpected(
        Error{ErrorKind::unavailable,
              fmt::format("CUDA's driver library {} cannot be opened: install NVIDIA's driver, name the library in [cuda] "
                          "library, or set [device] kind (--device) to host",
                          driver->name_)}
            .with_vendor(reason != nullptr ? reason : ""));
  }
  CKPTD_TRY(driver->load(handle));
  CKPTD_TRY(driver->initialise());
  return driver;
}

Result<> Driver::load(void* library) {
  std::string missing;
  const auto need = [&](const char* symbol, auto& function) {
    if (!find(library, symbol, function)) missing += (missing.empty() ? "" : ", ") + std::string(symbol);
  };
  auto& f = functions_;
  need("cuInit", f.init);
  need("cuDriverGetVersion", f.driver_get_version);
  need("cuGetErrorName", f.get_error_name);
  need("cuGetErrorString", f.get_error_string);
  need("cuDeviceGetCount", f.device_get_count);
  need("cuDeviceGet", f.device_get);
  need("cuDeviceGetName", f.device_get_name);
  need("cuDeviceGetUuid_v2", f.device_get_uuid);
  need("cuDeviceGetPCIBusId", f.device_get_pci_bus_id);
  need("cuDeviceCanAccessPeer", f.device_can_access_peer);
  need("cuDevicePrimaryCtxRetain", f.primary_ctx_retain);
  need("cuDevicePrimaryCtxRelease_v2", f.primary_ctx_release);
  need("cuCtxPushCurrent_v2", f.ctx_push_current);
  need("cuCtxPopCurrent_v2", f.ctx_pop_current);
  need("cuCtxEnablePeerAccess", f.ctx_enable_peer_access);
  need("cuMemGetInfo_v2", f.mem_get_info);
  need("cuMemAlloc_v2", f.mem_alloc);
  need("cuMemFree_v2", f.mem_free);
  need("cuMemGetAddressRange_v2", f.mem_get_address_range);
  need("cuMemHostRegister_v2", f.mem_host_register);
  need("cuMemHostUnregister", f.mem_host_unregister);
  need("cuIpcGetMemHandle", f.ipc_get_mem_handle);
  need("cuIpcOpenMemHandle_v2", f.ipc_open_mem_handle);
  need("cuIpcCloseMemHandle", f.ipc_close_mem_handle);
  need("cuMemcpyHtoDAsync_v2", f.memcpy_host_to_device);
  need("cuMemcpyAsync", f.memcpy_unified);
  need("cuStreamCreate", f.stream_create);
  need("cuStreamDestroy_v2", f.stream_destroy);
  need("cuStreamQuery", f.stream_query);
  need("cuStreamWaitEvent", f.stream_wait_event);
  need("cuEventCreate", f.event_create);
  need("cuEventDestroy_v2", f.event_destroy);
  need("cuEventRecord", f.event_record);
  need("cuEventQuery", f.event_query);
  need("cuEventElapsedTime", f.event_elapsed_time);
  find(library, "cuDeviceGetUuid", f.device_get_gpu_uuid);
  if (missing.empty()) return {};
  return fail(ErrorKind::unsupported,
              "{} lacks {}: it is no driver of NVIDIA, or older than 525 (CUDA 12.0); install a newer one, or set [device] "
              "kind (--device) to host",
              name_, missing);
}

Result<> Driver::initialise() {
  // The version is told without a GPU and before cuInit, and an old driver may fail in cuInit for that reason alone.
  if (const auto code = functions_.driver_get_version(&version_); code != CUDA_SUCCESS)
    return std::unexpected(error(code, fmt::format("ask {} for its version", name_)));
  if (version_ < kOldestVersion)
    return fail(ErrorKind::unsupported,
                "{} speaks CUDA {}.{}, ckptd needs 12.0 or later: install driver 525 or newer, or set [device] kind "
                "(--device) to host",
                name_, version_ / 1000, version_ % 1000 / 10);
  const auto code = functions_.init(0);
  if (code == CUDA_SUCCESS) return {};
  const auto cure = std::ranges::find(kCures, code, &Cure::code);
  const bool known = cure != kCures.end();
  return std::unexpected(
      Error{known ? cure->kind : ErrorKind::unavailable,
            fmt::format("CUDA's driver {} does not start: {}; or set [device] kind (--device) to host", name_,
                        known ? cure->advice : "look at the kernel log and `nvidia-smi`")}
          .with_vendor(describe(code).vendor));
}

Meaning Driver::describe(CUresult code) const {
  const char *name = nullptr, *text = nullptr;
  const bool named = functions_.get_error_name(code, &name) == CUDA_SUCCESS && name != nullptr;
  const bool told = functions_.get_error_string(code, &text) == CUDA_SUCCESS && text != nullptr;
  const auto number = static_cast<unsigned>(code);
  const bool fences = std::ranges::find(kFencing, number) != kFencing.end();
  return {.kind = fences ? ErrorKind::unavailable : kind_of(code),
          .fences = fences,
          .vendor = fmt::format("{} ({}): {}", named ? name : "an error that this driver has no name for", number,
                                told ? text : "no text")};
}

Error Driver::error(CUresult code, std::string_view what) const {
  auto meaning = describe(code);
  return Error{meaning.kind, fmt::format("{} failed: {}", what, meaning.vendor)}.with_vendor(std::move(meaning.vendor));
}

}  // namespace ckptd::device::cuda
