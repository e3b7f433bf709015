// Memory of CUDA devices: whole allocations of the driver, and mappings of those of other processes.
//
// Allocated with cuMemAlloc in multiples of 2 MiB, because a smaller one may be a part of a block that the driver shares
// out, and its IPC handle would export the whole block. The range is what was asked for. A handle opens in every process
// but the one that made it: a handle of our own is recognised and gives a second owner of the same memory.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "common/result.h"
#include "common/units.h"
#include "daemon/device/cuda/context.h"
#include "daemon/device/device.h"

namespace ckptd::device::cuda {

inline constexpr std::uint64_t kGranuleBytes = 2 * kMiB;

/// One piece of memory, ours or mapped, which goes back to the driver with the last allocation that holds it. That may
/// make the driver wait for all work of the GPU: it is not done while anything is under way.
class Block;

/// What this process has exported and not freed. Safe from any thread.
class Exports {
 public:
  using Handle = decltype(CudaExport::handle);

  void add(const Handle& handle, const std::shared_ptr<Block>& block);
  std::shared_ptr<Block> find(const Handle& handle) const;

 private:
  mutable std::mutex mutex_;
  std::map<Handle, std::weak_ptr<Block>> blocks_;
};

/// no_space, with both numbers, when that much is not free.
Result<std::unique_ptr<Allocation>> allocate_memory(std::uint64_t bytes, std::shared_ptr<Context> context,
                                                    std::shared_ptr<Exports> exports);

/// Maps memory of any GPU of this machine, with peer access where it is another one than the context's.
Result<std::unique_ptr<Allocation>> open_memory(const CudaExport& exported, std::shared_ptr<Context> context,
                                                std::shared_ptr<Exports> exports);

}  // namespace ckptd::device::cuda
