// What NCCL has to know of CUDA devices: the only place where both rooms meet.
#pragma once

#include "daemon/collective/nccl/natives.h"
#include "daemon/device/cuda/native.h"

namespace ckptd {

inline collective::nccl::Natives natives_of_cuda() {
  namespace cuda = device::cuda;
  return {
      .stream = [](device::Stream& stream) -> void* { return cuda::native_stream(stream); },
      .with_current = [](device::Device& device, const std::function<Result<>()>& act) -> Result<> {
        const auto current = CKPTD_TRY(cuda::CurrentContext::of(device));
        return act();
      },
      .usable = [](device::Device& device) { return cuda::native_usable(device); },
      .give_up = [](device::Device& device, const Error& why) { cuda::fence_native(device, why); },
  };
}

}  // namespace ckptd
