// Memory that a sender exported by CUDA IPC, opened as torch's rebuild_cuda_tensor does, through whichever libcuda the
// environment names in CKPTD_RANK_CUDA_LIBRARY (libcuda.so.1 if it names none). Needs no header of CUDA and shares no code
// with the daemon's backend.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace ckptd::reference_rank {

class CudaMemory {
 public:
  /// `device` is the GPU's UUID, `handle` the raw 64 bytes. Throws PythonError, as torch would.
  CudaMemory(const std::string& device, const std::string& handle, std::size_t bytes);
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  /// Closes the handle: the sender may free the memory afterwards.
  ~CudaMemory();

  /// What is in it now, copied to the host; valid until the next call.
  std::span<const std::byte> content();

 private:
  struct Driver;
  std::unique_ptr<Driver> driver_;
};

}  // namespace ckptd::reference_rank
