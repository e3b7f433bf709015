// How torch opens CUDA memory of another process: the arguments of torch.multiprocessing.reductions.rebuild_cuda_tensor,
// as a pickle. Several protocols carry them, each in its own frame.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "proto/pickle/writer.h"

namespace ckptd::proto::torch {

/// A one-dimensional tensor of bytes in an allocation that was exported.
struct SharedBytes {
  std::span<const std::uint8_t> handle;  ///< the 64 bytes of a cudaIpcMemHandle_t
  std::uint64_t storage_bytes = 0;       ///< of the whole allocation
  std::uint64_t offset = 0;              ///< where the tensor begins in it
  std::uint64_t bytes = 0;               ///< the tensor's
  std::string_view counter_name;         ///< torch's file of reference counters, as shm_open takes it
  std::uint64_t counter_index = 0;
};

/// The tuple of 15. Slot 6, the device, is 0: whoever opens the memory puts its own there.
///
/// torch keeps storages by handle and storage offset, so all tensors of one allocation, which differ in the tensor's
/// offset alone, share one mapping in a process for as long as one of them lives. Its counter is the one that came with
/// the first; each further counter is counted down at once.
void write_rebuild_arguments(pickle::Writer& writer, const SharedBytes& tensor);

}  // namespace ckptd::proto::torch
