#include "tests/contract/fake_cuda_backend.h"
#include "tests/contract/device_contract.h"

namespace ckptd::tests {

TEST_CASE("CUDA devices over a driver without GPUs: memory") { memory_contract<FakeCudaBackend>(); }
TEST_CASE("CUDA devices over a driver without GPUs: streams") { stream_contract<FakeCudaBackend>(); }
TEST_CASE("CUDA devices over a driver without GPUs: events") { event_contract<FakeCudaBackend>(); }

}  // namespace ckptd::tests
