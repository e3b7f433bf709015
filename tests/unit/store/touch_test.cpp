// What touching leaves behind: every page there, content as it was, in huge pages where the kernel can gather them.
#include "daemon/store/touch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <string>

#include "common/host_memory.h"
#include "common/units.h"
#include "daemon/store/pinned_segment.h"

using namespace ckptd;
using namespace ckptd::store;

namespace {

/// Bytes of the mapping around `address` that this process maps by huge pages.
std::uint64_t huge_bytes_at(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      ours = begin <= reinterpret_cast<std::uintptr_t>(address) && reinterpret_cast<std::uintptr_t>(address) < end;
    if (ours && line.starts_with("ShmemPmdMapped:")) return std::stoull(line.substr(15)) * kKiB;
  }
  return 0;
}

/// Whether this kernel gathers pages of shared memory at all.
bool kernel_gathers() {
  const int fd = memfd_create("probe", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, 2 * kHugePageBytes) != 0) return false;
  void* at = mmap(nullptr, 2 * kHugePageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  std::memset(at, 1, 2 * kHugePageBytes);
  const auto begin = round_up(reinterpret_cast<std::uintptr_t>(at), kHugePageBytes);
  const bool gathered = madvise(reinterpret_cast<void*>(begin), kHugePageBytes, 25) == 0;
  munmap(at, 2 * kHugePageBytes);
  close(fd);
  return gathered;
}

}  // namespace

TEST_CASE("a segment begins where a huge page can, whatever its size") {
  for (const auto bytes : {64 * kKiB, 2 * kMiB, 6 * kMiB + 64 * kKiB}) {
    const auto segment = PinnedSegment::map(1, bytes, -1, false);
    REQUIRE(segment);
    const auto memory = (*segment)->description().memory;
    CHECK(memory.size() == bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % kHugePageBytes == 0);
    REQUIRE((*segment)->touch(bytes, {}, {}));
    std::memset(memory.data(), 0x5a, bytes);  // all of it is ours
  }
}

TEST_CASE("touching keeps what is there, and gathers it in huge pages where the kernel can") {
  const auto segment = PinnedSegment::map(1, 8 * kMiB, -1, false);
  REQUIRE(segment);
  const auto memory = (*segment)->description().memory;
  for (std::size_t at = 0; at < memory.size(); at += 4096) std::memcpy(memory.data() + at, &at, sizeof at);
  REQUIRE((*segment)->touch(4 * kMiB, {}, {}));
  REQUIRE((*segment)->touch(4 * kMiB, {}, {}));
  CHECK((*segment)->is_touched());
  bool kept = true;
  for (std::size_t at = 0; at < memory.size(); at += 4096)
    kept = kept && std::memcmp(memory.data() + at, &at, sizeof at) == 0;
  CHECK(kept);
  if (kernel_gathers())
    CHECK(huge_bytes_at(memory.data()) > 0);  // a fragmented machine may have too few for all
  else
    WARN("this kernel gathers no pages of shared memory: not looked at");
}
