#include "common/host_memory.h"

#include <catch2/catch.hpp>

#include "common/units.h"
#include "tests/support/fake_system_root.h"

using namespace ckptd;
using ckptd::test::FakeSystemRoot;

TEST_CASE("meminfo is read by its keys, and only whole") {
  auto memory = parse_meminfo("MemTotal:       24683520 kB\nMemFree: 9 kB\nMemAvailable:   24349696 kB\n");
  REQUIRE(memory);
  CHECK(memory->total_bytes == 24683520 * kKiB);
  CHECK(memory->available_bytes == 24349696 * kKiB);
  CHECK_FALSE(parse_meminfo("MemTotal: 1 kB\nMemFree: 1 kB\n"));
  CHECK_FALSE(parse_meminfo("MemTotal: 1 kB\nMemAvailable: lots kB\n"));
  CHECK_FALSE(parse_meminfo("MemTotal:\nMemAvailable: 1 kB"));
  CHECK_FALSE(parse_meminfo(""));
}

TEST_CASE("the control group's paths are found in both versions and in hybrid trees") {
  auto v2 = parse_proc_cgroup("0::/system.slice/ckptd.service\n");
  CHECK(v2.unified == "/system.slice/ckptd.service");
  CHECK_FALSE(v2.memory_v1);

  auto hybrid = parse_proc_cgroup("8:pids:/p\n4:cpu,memory:/a/b:c\n1:name=systemd:/x\n0::/\n");
  CHECK(hybrid.unified == "/");
  CHECK(hybrid.memory_v1 == "/a/b:c");

  CHECK(parse_proc_cgroup("0::/../outside\n").unified == "/");
  CHECK(parse_proc_cgroup("0::/..\n").unified == "/");
  CHECK(parse_proc_cgroup("0::relative").unified == "/");
  CHECK_FALSE(parse_proc_cgroup("garbage\n4:memory\n").memory_v1);
  CHECK_FALSE(parse_proc_cgroup("5:memory_extra:/a\n").memory_v1);
}

TEST_CASE("limits that mean none are none") {
  CHECK(parse_cgroup_limit("1073741824\n") == kGiB);
  CHECK(parse_cgroup_limit("0\n") == 0);
  CHECK_FALSE(parse_cgroup_limit("max\n"));
  CHECK_FALSE(parse_cgroup_limit("9223372036854771712\n"));
  CHECK_FALSE(parse_cgroup_limit("99999999999999999999999\n"));
  CHECK_FALSE(parse_cgroup_limit(""));
  CHECK_FALSE(parse_cgroup_limit("12x"));
}

TEST_CASE("memory.stat is searched by whole keys") {
  const auto* stat = "inactive_file_other 1\ninactive_file 4096\ntotal_inactive_file 8192\n";
  CHECK(parse_stat_value(stat, "inactive_file") == 4096);
  CHECK(parse_stat_value(stat, "total_inactive_file") == 8192);
  CHECK(parse_stat_value(stat, "active_file") == 0);
}

TEST_CASE("every level of a version 2 group counts, with its droppable page cache") {
  FakeSystemRoot root;
  root.set_memory(64 * kGiB, 60 * kGiB);
  root.write("proc/self/cgroup", "0::/outer/inner\n");
  root.write("sys/fs/cgroup/outer/memory.max", "10737418240\n");  // 10 GiB
  root.write("sys/fs/cgroup/outer/memory.current", "4294967296\n");
  root.write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 1073741824\n");
  root.write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  root.write("sys/fs/cgroup/outer/inner/memory.high", "2147483648\n");
  root.write("sys/fs/cgroup/outer/inner/memory.current", "5000000000\n");  // above its limit already

  auto ceilings = read_ceilings(root.path());
  REQUIRE(ceilings.size() == 3);
  CHECK(ceilings[0].name == "this machine");
  CHECK(ceilings[0].available_bytes == 60 * kGiB);
  CHECK(ceilings[1].name == "the control group /sys/fs/cgroup/outer/inner");
  CHECK(ceilings[1].total_bytes == 2 * kGiB);
  CHECK(ceilings[1].available_bytes == 0);
  CHECK(ceilings[2].name == "the control group /sys/fs/cgroup/outer");
  CHECK(ceilings[2].available_bytes == 7 * kGiB);
}

TEST_CASE("a version 1 group counts up to the mount, even where the path is only visible on the host") {
  FakeSystemRoot root;
  root.write("proc/self/cgroup", "4:memory:/docker/0123\n0::/\n");
  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472\n");
  root.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n");
  root.write("sys/fs/cgroup/memory/memory.stat", "inactive_file 5\ntotal_inactive_file 536870912\n");

  auto ceilings = read_ceilings(root.path());
  REQUIRE(ceilings.size() == 1);
  CHECK(ceilings[0].name == "the control group /sys/fs/cgroup/memory");
  CHECK(ceilings[0].total_bytes == 3 * kGiB);
  CHECK(ceilings[0].available_bytes == 3 * kGiB - 512 * kMiB);

  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(read_ceilings(root.path()).empty());
}

TEST_CASE("an empty system has no limits") {
  FakeSystemRoot root;
  CHECK(read_ceilings(root.path()).empty());
  CHECK_FALSE(read_machine(root.path()));
  CHECK(read_free_huge_pages(root.path()) == 0);
}

TEST_CASE("this machine can be read") {
  auto ceilings = read_ceilings("/");
  REQUIRE_FALSE(ceilings.empty());
  CHECK(ceilings[0].total_bytes >= ceilings[0].available_bytes);
  CHECK(ceilings[0].available_bytes > 0);
}

TEST_CASE("huge pages that somebody reserved are not free") {
  FakeSystemRoot root;
  root.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "10\n");
  CHECK(read_free_huge_pages(root.path()) == 10);
  root.write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "4\n");
  CHECK(read_free_huge_pages(root.path()) == 6);
  root.write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "40\n");
  CHECK(read_free_huge_pages(root.path()) == 0);
}
