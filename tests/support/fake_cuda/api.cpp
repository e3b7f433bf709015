// The symbols that the library exports, each a line: what every call checks first, then the machine's own function.
#include "tests/support/fake_cuda/fake_cuda.h"
#include "tests/support/fake_cuda/machine.h"

#include <cstdio>
#include <cstring>
#include <string>

// The header of the toolkit names these by their newest versions; here the older ones are meant.
#undef cuEventElapsedTime
#undef cuDeviceGetUuid

using ckptd::fake_cuda::Machine;

namespace {

Machine& machine() { return Machine::get(); }

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

template <class Act>
CUresult call(const char* name, Act act) {
  machine().faults().meet(name);
  const auto code = machine().begin(name);
  return code != CUDA_SUCCESS ? code : act();
}

template <class Act>
CUresult call_anywhere(const char* name, Act act) {
  const auto code = machine().begin(name, false);
  return code != CUDA_SUCCESS ? code : act();
}

CUresult uuid_of(CUuuid* uuid, CUdevice device, bool of_instance) {
  static constexpr unsigned char kStart[] = {0xfa, 0x4e, 0xc0, 0xda};
  std::memset(uuid, 0, sizeof *uuid);
  std::memcpy(uuid->bytes, kStart, sizeof kStart);
  uuid->bytes[15] = static_cast<char>(device);
  if (of_instance && machine().divided(device)) uuid->bytes[4] = static_cast<char>(0xab);
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) {
  return call_anywhere("cuInit", [] { return machine().gpus() == 0 ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; });
}
CUresult cuDriverGetVersion(int* version) {
  return call_anywhere("cuDriverGetVersion", [&] { return *version = machine().version(), CUDA_SUCCESS; });
}
CUresult cuGetErrorName(CUresult code, const char** text) {
  thread_local std::string name;
  *text = nullptr;
  switch (code) {
    case CUDA_SUCCESS: *text = "CUDA_SUCCESS"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case CUDA_ERROR_NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; break;
    case CUDA_ERROR_SYSTEM_NOT_READY: *text = "CUDA_ERROR_SYSTEM_NOT_READY"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case CUDA_ERROR_ECC_UNCORRECTABLE: *text = "CUDA_ERROR_ECC_UNCORRECTABLE"; break;
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: *text = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; break;
    default: name = "CUDA_ERROR_FAKE_" + std::to_string(static_cast<unsigned>(code)); *text = name.c_str();
  }
  return code > CUDA_ERROR_UNKNOWN ? *text = nullptr, CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char** text) {
  *text = code > CUDA_ERROR_UNKNOWN ? nullptr : code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "as the test asked";
  return *text == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  return call_anywhere("cuDeviceGetCount", [&] { return *count = machine().gpus(), CUDA_SUCCESS; });
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return call_anywhere("cuDeviceGet", [&] {
    *device = ordinal;
    return ordinal >= 0 && ordinal < machine().gpus() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  });
}
CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  return call_anywhere("cuDeviceGetName", [&] {
    std::snprintf(name, static_cast<std::size_t>(length), "Fake GPU %d", device);
    return CUDA_SUCCESS;
  });
}
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return call_anywhere("cuDeviceGetUuid", [&] { return uuid_of(uuid, device, false); });
}
CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  return call_anywhere("cuDeviceGetUuid_v2", [&] { return uuid_of(uuid, device, true); });
}
CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
  return call_anywhere("cuDeviceGetPCIBusId", [&] {
    std::snprintf(id, static_cast<std::size_t>(length), "0000:%02X:00.0", 0x1a + device);
    return CUDA_SUCCESS;
  });
}
CUresult cuDeviceCanAccessPeer(int* possible, CUdevice, CUdevice) {
  return call_anywhere("cuDeviceCanAccessPeer", [&] { return *possible = 1, CUDA_SUCCESS; });
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call_anywhere("cuDevicePrimaryCtxRetain", [&] { return machine().retain(context, device); });
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return call_anywhere("cuDevicePrimaryCtxRelease_v2", [&] { return machine().release(device); });
}
CUresult cuCtxPushCurrent_v2(CUcontext context) {
  return call_anywhere("cuCtxPushCurrent_v2", [&] { return machine().push(context); });
}
CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  return call_anywhere("cuCtxPopCurrent_v2", [&] { return machine().pop(context); });
}
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned) {
  return call("cuCtxEnablePeerAccess", [&] { return machine().enable_peer(peer); });
}

CUresult cuMemGetInfo_v2(std::size_t* free_bytes, std::size_t* total) {
  return call("cuMemGetInfo_v2", [&] { return machine().memory_info(free_bytes, total); });
}
CUresult cuMemAlloc_v2(CUdeviceptr* pointer, std::size_t bytes) {
  return call("cuMemAlloc_v2", [&] { return machine().allocate(pointer, bytes); });
}
CUresult cuMemFree_v2(CUdeviceptr pointer) {
  return call("cuMemFree_v2", [&] { return machine().free(pointer); });
}
CUresult cuMemGetAddressRange_v2(CUdeviceptr* start, std::size_t* bytes, CUdeviceptr pointer) {
  return call("cuMemGetAddressRange_v2", [&] { return machine().range_of(start, bytes, pointer); });
}
CUresult cuMemHostRegister_v2(void* memory, std::size_t bytes, unsigned) {
  return call("cuMemHostRegister_v2", [&] { return machine().register_host(address(memory), bytes); });
}
CUresult cuMemHostUnregister(void* memory) {
  return call("cuMemHostUnregister", [&] { return machine().unregister_host(address(memory)); });
}
CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr pointer) {
  return call("cuIpcGetMemHandle", [&] { return machine().export_memory(handle, pointer); });
}
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* pointer, CUipcMemHandle handle, unsigned) {
  return call("cuIpcOpenMemHandle_v2", [&] { return machine().open_memory(pointer, handle); });
}
CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
  return call("cuIpcCloseMemHandle", [&] { return machine().close_memory(pointer); });
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return call("cuMemcpy", [&] { return machine().copy_now(to, from, bytes); });
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  return call("cuMemcpyHtoDAsync_v2",
              [&] { return machine().copy("cuMemcpyHtoDAsync", to, address(from), bytes, stream); });
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return call("cuMemcpyAsync", [&] { return machine().copy("cuMemcpyAsync", to, from, bytes, stream); });
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return call("cuStreamCreate", [&] { return machine().make_stream(stream, flags); });
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  return call("cuStreamDestroy_v2", [&] { return machine().destroy_stream(stream); });
}
CUresult cuStreamQuery(CUstream stream) {
  return call("cuStreamQuery", [&] { return machine().query_stream(stream); });
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  return call("cuStreamWaitEvent", [&] { return machine().wait(stream, event); });
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return call("cuLaunchHostFunc", [&] { return machine().call_host(stream, function, data); });
}
CUresult cuEventCreate(CUevent* event, unsigned flags) {
  return call("cuEventCreate", [&] { return machine().make_event(event, flags); });
}
CUresult cuEventDestroy_v2(CUevent event) {
  return call("cuEventDestroy_v2", [&] { return machine().destroy_event(event); });
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  return call("cuEventRecord", [&] { return machine().record(event, stream); });
}
CUresult cuEventQuery(CUevent event) {
  return call("cuEventQuery", [&] { return machine().query_event(event); });
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  return call("cuEventElapsedTime", [&] { return machine().elapsed(milliseconds, from, to); });
}

void fake_cuda_fail(const char* name, unsigned nth, int code, int gpu) {
  machine().faults().add(name, nth, static_cast<CUresult>(code), gpu);
}
void fake_cuda_fail_nothing() { machine().faults().clear(); }
unsigned fake_cuda_calls(const char* name) { return machine().faults().calls(name); }
void fake_cuda_gather(const char* name, unsigned at_once) { machine().faults().gather(name, at_once); }
unsigned fake_cuda_gathered() { return machine().faults().gathered(); }
void fake_cuda_set_memory(int gpu, unsigned long long bytes) { machine().set_memory(gpu, bytes); }
void fake_cuda_pause(int paused) { machine().pause(paused != 0); }
unsigned fake_cuda_complaints() { return machine().faults().complaints(); }
const char* fake_cuda_last_complaint() { return machine().faults().last_complaint(); }
void fake_cuda_forget_complaints() { machine().faults().forget_complaints(); }
unsigned fake_cuda_objects() { return machine().objects(); }
void fake_cuda_revive() { machine().revive(); }
}
