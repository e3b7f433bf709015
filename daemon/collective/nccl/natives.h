// What the NCCL backend has to know of devices and the seam of daemon/device does not say. The assembly fills it in
// from the device backend that the devices are of, so that this room knows neither CUDA nor its headers.
#pragma once

#include <functional>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::collective::nccl {

struct Natives {
  /// The stream as NCCL takes it (a CUstream). Null if it is not one of a device that NCCL can use.
  std::function<void*(device::Stream&)> stream;
  /// Calls `act` while the device is the current one of this thread.
  std::function<Result<>(device::Device&, const std::function<Result<>()>& act)> with_current;
  /// The error after which nothing of the device works any more, if there was one. Cheap.
  std::function<Result<>(device::Device&)> usable;
  /// Nothing may be done with the device any more until ckptd is restarted: NCCL may still use what is about to be
  /// freed.
  std::function<void(device::Device&, const Error& why)> give_up;
};

}  // namespace ckptd::collective::nccl
