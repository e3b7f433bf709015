// The local group between GPUs, which spreads by copies from device to device.
#include "daemon/collective/local/local_group.h"
#include "tests/contract/collective_contract.h"
#include "tests/contract/fake_cuda_backend.h"

namespace ckptd::tests {

using collective::local::make_group;

TEST_CASE("local group of CUDA devices: broadcast") { broadcast_contract<FakeCudaBackend>(make_group); }
TEST_CASE("local group of CUDA devices: agree") { agree_contract<FakeCudaBackend>(make_group); }
TEST_CASE("local group of CUDA devices: absence") { absence_contract<FakeCudaBackend>(make_group); }
TEST_CASE("local group of CUDA devices: interruption") { interrupted_broadcast_contract<FakeCudaBackend>(make_group); }

}  // namespace ckptd::tests
