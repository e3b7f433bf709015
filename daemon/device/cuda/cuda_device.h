// NVIDIA GPUs through the CUDA driver API (docs/decisions/0017).
//
// A device keeps the primary context of its GPU, which torch and NCCL in this process would share. An error after which
// that context is lost fences the device until ckptd is restarted: every later call answers `unavailable` with the
// device, the first error and what to do. Other devices go on, and nothing blocks on the one that is lost.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "daemon/device/device.h"

namespace ckptd::device::cuda {

struct Options {
  std::filesystem::path library;        ///< of the driver; empty: libcuda.so.1, wherever the dynamic linker finds it
  std::vector<std::string> devices;     ///< UUIDs, in this order; empty: every GPU that the driver shows, in its order
  std::filesystem::path system_root = "/";  ///< replaces "/" for what is read from sys
};

/// Opens the driver and makes a device of each GPU, with peer access between all that can have it. Blocks for the start
/// of the driver, a second and more, and takes some hundred MB of each GPU for its context. Fails if there is no GPU, as
/// Driver::open() does if there is no driver; invalid_argument if one of options.devices is not there.
Result<std::vector<std::unique_ptr<Device>>> make_cuda_devices(const Options& options);

}  // namespace ckptd::device::cuda
