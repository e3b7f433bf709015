#include "tests/contract/device_contract.h"

namespace ckptd::tests {

TEST_CASE("host devices: memory") { memory_contract<HostBackend>(); }
TEST_CASE("host devices: streams") { stream_contract<HostBackend>(); }
TEST_CASE("host devices: events") { event_contract<HostBackend>(); }

TEST_CASE("shuffling devices: memory") { memory_contract<ShufflingBackend>(); }
TEST_CASE("shuffling devices: streams") { stream_contract<ShufflingBackend>(); }
TEST_CASE("shuffling devices: events") { event_contract<ShufflingBackend>(); }

}  // namespace ckptd::tests
