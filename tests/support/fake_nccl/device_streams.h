// The fake NCCL over streams of host devices, shuffling or not, and the Natives that go with it: a stream's address is
// its own, and the device that is current is what a thread was told last.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/collective/nccl/natives.h"
#include "tests/support/fake_nccl/fake_nccl.h"

namespace ckptd::tests {

/// For fake_nccl_begin(). Copies on streams of a Shuffler are cut off by an abort; those of plain host devices are not.
const FakeNcclStreams& device_streams();

/// What tests say of devices and learn of them.
struct Standing {
  std::atomic<device::Device*> lost = nullptr;  ///< a device that Natives::usable() answers an error for
  std::atomic<unsigned> given_up = 0;
};

/// `standing` outlives whoever uses them.
collective::nccl::Natives device_natives(Standing& standing);

}  // namespace ckptd::tests
