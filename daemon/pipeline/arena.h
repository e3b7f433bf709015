// The one allocation of a device that is exported to ranks, once.
#pragma once

#include <cstdint>
#include <memory>

#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::pipeline {

/// Allocates `wanted_bytes`, or, while the device refuses with no_space, half of what was tried before, down to
/// `smallest_bytes`. The error of the last try, with both numbers, when even that does not fit.
Result<std::unique_ptr<device::Allocation>> allocate_arena(device::Device& device, std::uint64_t wanted_bytes,
                                                           std::uint64_t smallest_bytes);

}  // namespace ckptd::pipeline
