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

TEST_CASE("a node with twice the devices gets twice the segments") {
  const std::vector<int> nodes{0, 0, 1};
  std::vector<int> taken;
  for (int i = 0; i < 6; ++i) taken.push_back(least_used_node(nodes, taken));
  CHECK(taken == std::vector<int>{0, 1, 0, 0, 1, 0});
}

TEST_CASE("segments lie on the nodes that have devices") {
  const std::vector<int> usable{0, 1, 2, 3};
  CHECK(nodes_for_segments(usable, {}) == usable);
  CHECK(nodes_for_segments(usable, std::vector{-1, -1}) == usable);  // nobody tells
  CHECK(nodes_for_segments(usable, std::vector{2, 0, 2}) == std::vector<int>{0, 2, 2});
  CHECK(nodes_for_segments(usable, std::vector{1, -1}) == std::vector<int>{1});
  CHECK(nodes_for_segments(usable, std::vector{7}) == usable);  // where we may not have memory
  CHECK(nodes_for_segments({}, std::vector{0, 1}).empty());
}

TEST_CASE("nodes are what the kernel and the cpuset say") {
  struct Row {
    const char *has_memory, *allowed;
    std::vector<int> nodes;
  };
  const std::vector<Row> table{{"0-1\n", "0-1", {0, 1}},        {"0-3\n", "0,2-3", {0, 2, 3}}, {"0,2\n", "0-7", {0, 2}},
                               {"0-1\n", "1", {}},              {"0\n", "0", {}},              {"", "0-1", {}},
                               {"0-1\n", "", {}},               {"0-x\n", "0-1", {}},          {"-1\n", "0-1", {}},
                               {"0-99999999\n", "0-1", {}}};
  for (const auto& row : table) {
    CAPTURE(row.has_memory, row.allowed);
    FakeSystemRoot root;
    CHECK(usable_numa_nodes(root.path()).empty());
    root.write("sys/devices/system/node/has_memory", row.has_memory);
    root.write("proc/self/status", fmt::format("Name:\tx\nMems_allowed:\t0000,00000003\nMems_allowed_list:\t{}\n", row.allowed));
    CHECK(usable_numa_nodes(root.path()) == row.nodes);
  }
}
