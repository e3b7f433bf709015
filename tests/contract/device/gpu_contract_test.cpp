// The contract on the GPUs of this machine. A program of its own, which ends with 77 (skipped) where there is none: its
// main looks for them before Catch2's runs. What loses a device is left out, because it would lose it for the rest of
// the process and the tests in it.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <iostream>

#include "tests/contract/cuda_backend.h"
#include "tests/contract/device_contract.h"

namespace ckptd::tests {

TEST_CASE("CUDA devices of this machine: memory") { memory_contract<RealCudaBackend>(); }
TEST_CASE("CUDA devices of this machine: streams") { stream_contract<RealCudaBackend>(); }
TEST_CASE("CUDA devices of this machine: events") { event_contract<RealCudaBackend>(); }

}  // namespace ckptd::tests

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  auto devices = ckptd::device::cuda::make_cuda_devices({});
  if (!devices) {
    std::cerr << "skipped: " << devices.error().sentence << " (" << devices.error().vendor << ")\n";
    return kSkipped;
  }
  devices->clear();
  return Catch::Session().run(argc, argv);
}
