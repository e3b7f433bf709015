#include "daemon/store/pinned_segment.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/host_memory.h"
#include "common/units.h"
#include "daemon/store/lock_limit.h"
#include "daemon/store/numa_placement.h"
#include "daemon/store/touch.h"

namespace ckptd::store {
namespace {

std::unexpected<Error> failed(std::string_view step, std::uint32_t number, std::uint64_t bytes) {
  int error_number = errno;
  return std::unexpected(
      system_error(error_number, fmt::format("{} for store segment {} of {}", step, number, show_bytes(bytes))));
}

std::string show_lock_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return show_bytes(limit.rlim_cur);
}

/// At an address where huge pages can begin; the kernel need not choose one by itself. As mmap() in all else.
void* map_aligned(int fd, std::uint64_t bytes) {
  void* reserved = mmap(nullptr, bytes + kHugePageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return reserved;
  auto* const begin = static_cast<std::byte*>(reserved);
  auto* const at = begin + (kHugePageBytes - reinterpret_cast<std::uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  void* const mapped = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    const int error_number = errno;
    munmap(reserved, bytes + kHugePageBytes);
    errno = error_number;
    return mapped;
  }
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  auto* const end = at + round_up(bytes, page_bytes);
  if (at != begin) munmap(begin, static_cast<std::size_t>(at - begin));
  if (end < begin + bytes + kHugePageBytes) munmap(end, static_cast<std::size_t>(begin + bytes + kHugePageBytes - end));
  return mapped;
}

}  // namespace

Result<std::unique_ptr<PinnedSegment>> PinnedSegment::map(std::uint32_t number, std::uint64_t bytes, int numa_node,
                                                          bool huge_pages) {
  std::unique_ptr<PinnedSegment> segment(new PinnedSegment);
  segment->description_.number = number;
  segment->wished_node_ = numa_node;
  CKPTD_TRY(segment->map_memfd(bytes, huge_pages));
  if (numa_node >= 0) prefer_node(segment->description_.memory, numa_node);
  return segment;
}

Result<> PinnedSegment::touch(std::uint64_t limit, std::stop_token stop,
                              const std::function<void(std::uint64_t)>& touched) {
  auto memory = description_.memory.subspan(touched_bytes_);
  memory = memory.first(std::min<std::uint64_t>(limit, memory.size()));
  CKPTD_TRY(store::touch(memory, std::move(stop), [&](std::uint64_t bytes) {
    if (touched) touched(touched_bytes_ + bytes);
  }));
  touched_bytes_ += memory.size();
  if (is_touched() && wished_node_ >= 0) description_.numa_node = node_of(description_.memory.data());
  return {};
}

Result<> PinnedSegment::map_memfd(std::uint64_t bytes, bool huge_pages) {
  auto name = fmt::format("ckptd-segment-{}", description_.number);
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0U);
  memfd_ = UniqueFd(memfd_create(name.c_str(), flags));
  if (!memfd_) return failed("memfd_create", description_.number, bytes);
  if (ftruncate(memfd_.get(), static_cast<off_t>(bytes)) != 0) return failed("ftruncate", description_.number, bytes);
  // Whoever opens the file through /proc must not be able to cut pages away under us.
  if (fcntl(memfd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return failed("sealing", description_.number, bytes);
  // Mapping huge pages reserves them (and fails without), so that touching them cannot miss.
  void* address = map_aligned(memfd_.get(), bytes);
  if (address == MAP_FAILED) return failed("mmap", description_.number, bytes);
  description_.memfd = memfd_.get();
  description_.memory = {static_cast<std::byte*>(address), bytes};
  description_.huge_pages = huge_pages;
  madvise(address, bytes, MADV_DONTDUMP);  // weights in a core dump help nobody and fill the disk
  // Where the machine lets shared memory ask for them (shmem_enabled: advise), touching brings huge pages at once; else it
  // gathers the small ones afterwards, see touch.h.
  if (!huge_pages) madvise(address, bytes, MADV_HUGEPAGE);
  return {};
}

PinnedSegment::~PinnedSegment() {
  registrations_.clear();
  if (!description_.memory.empty()) munmap(description_.memory.data(), description_.memory.size());
}

Result<> PinnedSegment::lock() {
  auto memory = description_.memory;
  // Huge pages are never swapped. The rest takes mlock2 because sanitizers replace mlock by nothing, which would leave
  // the failure untested.
  if (!description_.huge_pages && mlock2(memory.data(), memory.size(), 0) != 0) {
    auto error = system_error(errno, fmt::format("locking store segment {} of {} in memory (RLIMIT_MEMLOCK is {})",
                                                 description_.number, show_bytes(memory.size()), show_lock_limit()));
    error.kind = ErrorKind::no_space;
    error.sentence += ". " + how_to_raise_the_lock_limit();
    return std::unexpected(std::move(error));
  }
  description_.locked = true;
  return {};
}

Result<> PinnedSegment::register_with(std::span<device::Device* const> devices) {
  registrations_.reserve(devices.size());
  for (auto* device : devices) {
    auto registration = device->register_host(description_.memory);
    // A device that is lost until a restart copies nothing any more, and versions for the others are still to be loaded.
    if (!registration && registration.error().kind == ErrorKind::unavailable) continue;
    if (!registration)
      return std::unexpected(registration.error().within(
          fmt::format("registering store segment {} of {} with device {}", description_.number,
                      show_bytes(description_.memory.size()), device->identity().uuid)));
    registrations_.push_back(std::move(*registration));
  }
  return {};
}

}  // namespace ckptd::store
