#include "daemon/collective/local/local_group.h"
#include "tests/contract/collective_contract.h"

namespace ckptd::tests {

using collective::local::make_group;

TEST_CASE("local group of host devices: broadcast") { broadcast_contract<HostBackend>(make_group); }
TEST_CASE("local group of host devices: agree") { agree_contract<HostBackend>(make_group); }
TEST_CASE("local group of host devices: absence") { absence_contract<HostBackend>(make_group); }
TEST_CASE("local group of host devices: interruption") { interrupted_broadcast_contract<HostBackend>(make_group); }
TEST_CASE("local group of host devices: faults") { fault_contract<HostBackend>(make_group); }

TEST_CASE("local group of shuffling devices: broadcast") { broadcast_contract<ShufflingBackend>(make_group); }
TEST_CASE("local group of shuffling devices: agree") { agree_contract<ShufflingBackend>(make_group); }
TEST_CASE("local group of shuffling devices: absence") { absence_contract<ShufflingBackend>(make_group); }
TEST_CASE("local group of shuffling devices: interruption") {
  interrupted_broadcast_contract<ShufflingBackend>(make_group);
}
TEST_CASE("local group of shuffling devices: faults") { fault_contract<ShufflingBackend>(make_group); }

TEST_CASE("a local group needs a name for each device, and an event from each") {
  ShufflingBackend backend;
  CHECK_FALSE(make_group({}, {}));
  CHECK_FALSE(make_group({&backend.device()}, {}));
  CHECK_FALSE(make_group({&backend.device()}, {"one", "two"}));
  backend.shuffler().fail_nth(Call::make_event, 3);
  auto refused = make_group({&backend.device(0), &backend.device(1)}, {"HOST-0", "HOST-1"});
  REQUIRE_FALSE(refused);
  CHECK(says(refused.error(), "HOST-1"));
}

}  // namespace ckptd::tests
