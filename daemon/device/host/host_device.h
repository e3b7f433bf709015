// A device made of host memory: for the demo, the tests and engines that run on CPUs.
//
// Memory is a memfd whose pages are reserved at once, sealed against shrinking and growing (a rank that truncated it
// would end us with SIGBUS) and exported as /proc/<pid>/fd/<n>, which opens within one uid. A stream is a real worker
// thread, so that a missing wait is a race that ThreadSanitizer sees and not an accident that works.
#pragma once

#include <filesystem>
#include <memory>

#include "daemon/device/device.h"

namespace ckptd::device::host {

/// HOST-<index>. `system_root` replaces "/" for what is read from /proc in free_bytes() and before an allocation. Never
/// fails: it owns nothing yet.
std::unique_ptr<Device> make_host_device(unsigned index, std::filesystem::path system_root = "/");

}  // namespace ckptd::device::host
