#include <catch2/catch.hpp>

#include "daemon/store/lock_limit.h"
#include "daemon/store/numa_placement.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using namespace ckptd::store;
using ckptd::test::FakeSystemRoot;

TEST_CASE("the lock limit is the soft one, unless the process may lock anything") {
  const std::string limits =
      "Limit                     Soft Limit           Hard Limit           Units     \n"
      "Max processes             95000                95000                processes \n"
      "Max locked memory         65536                8388608              bytes     \n";
  CHECK(parse_memlock_limit(limits) == 65536);
  CHECK(parse_memlock_limit("Max locked memory         unlimited            unlimited            bytes\n") ==
        kNoLockLimit);
  CHECK_FALSE(parse_memlock_limit("Max processes 1 1 processes\n"));
  CHECK(parse_may_lock_anything("Name:\tx\nCapEff:\t0000000000004000\n"));
  CHECK_FALSE(parse_may_lock_anything("CapPrm:\t0000000000004000\nCapEff:\t00000000ffffbfff\n"));
  CHECK_FALSE(parse_may_lock_anything("CapEff:\tnonsense\n"));

  FakeSystemRoot root;
  root.write("proc/self/limits", limits);
  CHECK(read_lock_limit(root.path()) == 65536);
  root.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
  CHECK(read_lock_limit(root.path()) == kNoLockLimit);
}

TEST_CASE("a system that does not tell has no lock limit") {
  FakeSystemRoot root;
  CHECK(read_lock_limit(root.path()) == kNoLockLimit);
}

TEST_CASE("segments spread over the nodes, the emptiest first") {
  CHECK(least_used_node({}, {}) == -1);
  const std::vector<int> nodes{0, 2};
  CHECK(least_used_node(nodes, {}) == 0);
  CHECK(least_used_node(nodes, std::vector{0}) == 2);
  CHECK(least_used_node(nodes, std::vector{2, 0}) == 0);
  CHECK(least_used_node(nodes, std::vector{0, 0, 2}) == 2);
}
