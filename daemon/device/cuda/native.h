// What lies behind the CUDA backend's objects, for other backends that call a CUDA library themselves (collective/nccl).
//
// Everything handed out here stays owned by the object that it came from and dies with it. Whoever calls CUDA itself
// does three things: it makes the device's context current for the call (CurrentContext), it gives codes of the driver
// that it gets to check_native(), so that a device that failed is fenced for everybody, and it never synchronises a
// device or destroys what it was given.
#pragma once

#include <cuda.h>

#include <memory>
#include <string_view>
#include <utility>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::device::cuda {

class Context;

/// Null if the stream is not of a CUDA device. Work that is queued on it directly is ordered with what is queued
/// through Stream, and its errors are found by Stream's and Event's waits.
CUstream native_stream(Stream& stream);

/// The primary context that the device keeps. Null if it is not a CUDA device.
CUcontext native_context(const Device& device);

/// The device as the driver counts them in this process: what cudaSetDevice() takes. -1 if it is not a CUDA device.
int native_ordinal(const Device& device);

/// The error that fenced the device, if one did; invalid_argument if it is not a CUDA device. From any thread, cheap.
Result<> native_usable(const Device& device);

/// The outcome of a call of the driver that somebody else made in the device's context. `what` is what was tried, as in
/// "all-reduce". A code after which the context is lost fences the device: every later call of it answers unavailable.
Result<> check_native(const Device& device, CUresult code, std::string_view what);

/// Fences the device for a reason that no code of the driver tells, as that a library will not let go of its memory.
void fence_native(const Device& device, Error why);

/// Makes the device's context current in this thread, and what was current before again at its end. To be destroyed in
/// the same thread, in the reverse order of several.
class CurrentContext {
 public:
  /// native_usable()'s error, or the driver's.
  static Result<CurrentContext> of(const Device& device);
  CurrentContext(CurrentContext&& other) noexcept = default;
  CurrentContext& operator=(CurrentContext&&) = delete;
  ~CurrentContext();

 private:
  explicit CurrentContext(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  std::shared_ptr<Context> context_;  // and not the device, which a call that hung may have outlived
};

}  // namespace ckptd::device::cuda
