// The GPUs that the driver shows, and what is known of them before a context is made.
#pragma once

#include <cuda.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/device/cuda/driver.h"

namespace ckptd::device::cuda {

struct Gpu {
  CUdevice device = 0;
  int ordinal = 0;
  std::string uuid;  ///< "GPU-" or, for an instance of a divided GPU, "MIG-", and 8-4-4-4-12 lower-case digits
  std::string model;
  int numa_node = -1;
};

/// unavailable if there is none. `system_root` replaces "/" for sys/bus/pci/devices.
Result<std::vector<Gpu>> enumerate(const Driver& driver, const std::filesystem::path& system_root);

/// Those of the list, in its order; all if it is empty. not_found with those that are there, invalid_argument for one
/// that is named twice.
Result<std::vector<Gpu>> choose(std::vector<Gpu> gpus, const std::vector<std::string>& uuids);

std::string show_uuid(std::string_view prefix, const CUuuid& uuid);

}  // namespace ckptd::device::cuda
