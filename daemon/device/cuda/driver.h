// NVIDIA's driver as a table of functions, opened at run time.
//
// Nothing of CUDA is linked: a machine without GPUs runs the same program. The symbols are chosen by name and on
// purpose, not by the macros of whichever cuda.h built us, so that a build with CUDA 12 or 13 headers runs on every
// driver from 525 (CUDA 12.0) on. The types come from the header.
#pragma once

#include <cuda.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::device::cuda {

/// Each member is the driver's function of that name in driver.cpp's list; none is null but the optional one.
struct Functions {
  decltype(&cuInit) init = nullptr;
  decltype(&cuDriverGetVersion) driver_get_version = nullptr;
  decltype(&cuGetErrorName) get_error_name = nullptr;
  decltype(&cuGetErrorString) get_error_string = nullptr;

  decltype(&cuDeviceGetCount) device_get_count = nullptr;
  decltype(&cuDeviceGet) device_get = nullptr;
  decltype(&cuDeviceGetName) device_get_name = nullptr;
  decltype(&cuDeviceGetUuid_v2) device_get_uuid = nullptr;      ///< of the MIG instance, where there is one
  decltype(&cuDeviceGetUuid_v2) device_get_gpu_uuid = nullptr;  ///< of the GPU; null where the driver has dropped it
  decltype(&cuDeviceGetPCIBusId) device_get_pci_bus_id = nullptr;
  decltype(&cuDeviceCanAccessPeer) device_can_access_peer = nullptr;

  decltype(&cuDevicePrimaryCtxRetain) primary_ctx_retain = nullptr;
  decltype(&cuDevicePrimaryCtxRelease_v2) primary_ctx_release = nullptr;
  decltype(&cuCtxPushCurrent_v2) ctx_push_current = nullptr;
  decltype(&cuCtxPopCurrent_v2) ctx_pop_current = nullptr;
  decltype(&cuCtxEnablePeerAccess) ctx_enable_peer_access = nullptr;

  decltype(&cuMemGetInfo_v2) mem_get_info = nullptr;
  decltype(&cuMemAlloc_v2) mem_alloc = nullptr;
  decltype(&cuMemFree_v2) mem_free = nullptr;
  decltype(&cuMemGetAddressRange_v2) mem_get_address_range = nullptr;
  decltype(&cuMemHostRegister_v2) mem_host_register = nullptr;
  decltype(&cuMemHostUnregister) mem_host_unregister = nullptr;
  decltype(&cuIpcGetMemHandle) ipc_get_mem_handle = nullptr;
  decltype(&cuIpcOpenMemHandle_v2) ipc_open_mem_handle = nullptr;
  decltype(&cuIpcCloseMemHandle) ipc_close_mem_handle = nullptr;

  decltype(&cuMemcpyHtoDAsync_v2) memcpy_host_to_device = nullptr;
  decltype(&cuMemcpyAsync) memcpy_unified = nullptr;  ///< between devices: the addresses say which

  decltype(&cuStreamCreate) stream_create = nullptr;
  decltype(&cuStreamDestroy_v2) stream_destroy = nullptr;
  decltype(&cuStreamQuery) stream_query = nullptr;
  decltype(&cuStreamWaitEvent) stream_wait_event = nullptr;
  decltype(&cuEventCreate) event_create = nullptr;
  decltype(&cuEventDestroy_v2) event_destroy = nullptr;
  decltype(&cuEventRecord) event_record = nullptr;
  decltype(&cuEventQuery) event_query = nullptr;
  /// The first of its kind: its successor (_v2) came with CUDA 12.8 and tells no more than we ask.
  CUresult(CUDAAPI* event_elapsed_time)(float*, CUevent, CUevent) = nullptr;
};

/// What a code of the driver means to us.
struct Meaning {
  ErrorKind kind;
  bool fences;         ///< the context that it came from is lost until the process ends
  std::string vendor;  ///< "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"
};

class Driver {
 public:
  /// Opens and initialises it. `library` is libcuda.so.1 if empty, which the dynamic linker then looks for. unavailable
  /// if it is not there, finds no device or is not ready, which may pass; unsupported if it is too old or does not fit its
  /// kernel module, which does not. The library stays open for the life of the process, because its threads do.
  static Result<std::shared_ptr<const Driver>> open(const std::filesystem::path& library = {});

  const Functions& functions() const { return functions_; }
  int version() const { return version_; }  ///< 12040 for CUDA 12.4
  const std::string& name() const { return name_; }

  Meaning describe(CUresult code) const;
  /// The code as an error: "WHAT failed", and what the driver says of it. `what` is what was tried.
  Error error(CUresult code, std::string_view what) const;

 private:
  Driver() = default;
  Result<> load(void* library);
  Result<> initialise();

  Functions functions_;
  std::string name_;
  int version_ = 0;
};

}  // namespace ckptd::device::cuda
