#include "daemon/source/page_cache.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "common/units.h"

namespace ckptd::source {
namespace {

// As in linux/mman.h since Linux 6.5; Debian 12's headers are older.
constexpr long kCachestatCall = 451;
struct CachestatRange {
  std::uint64_t offset = 0, length = 0;
};
struct Cachestat {
  std::uint64_t cached = 0, dirty = 0, in_writeback = 0, evicted = 0, recently_evicted = 0;
};

std::uint64_t page_bytes() {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

bool cachestat(int fd, std::uint64_t offset, std::uint64_t bytes, Cachestat& answer) {
  CachestatRange range{offset, bytes};
  return ::syscall(kCachestatCall, fd, &range, &answer, 0U) == 0;
}

/// Who may neither write a file nor owns it is told by mincore that all of it is in memory.
bool mincore_tells_the_truth(int fd) {
  struct stat info {};
  if (::geteuid() == 0 || (::fstat(fd, &info) == 0 && info.st_uid == ::geteuid())) return true;
  return ::access(("/proc/self/fd/" + std::to_string(fd)).c_str(), W_OK) == 0;
}

}  // namespace

PageCache PageCache::of(int fd, std::uint64_t bytes) {
  struct statfs system {};
  if (::fstatfs(fd, &system) != 0) return {};
  const auto type = static_cast<std::uint64_t>(system.f_type);
  if (type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC) return with(Probe::always, fd, bytes);
  // The pages of overlayfs belong to the files below it: cachestat finds none, a mapping is one of those files.
  if (type != OVERLAYFS_SUPER_MAGIC)
    if (auto cache = with(Probe::cachestat, fd, bytes); cache.probe() != Probe::never) return cache;
  return with(Probe::mincore, fd, bytes);
}

PageCache PageCache::with(Probe probe, int fd, std::uint64_t bytes) {
  PageCache cache;
  cache.fd_ = fd;
  cache.bytes_ = bytes;
  if (bytes == 0) return cache;
  if (Cachestat answer; probe == Probe::cachestat && !cachestat(fd, 0, bytes, answer)) return cache;
  if (probe == Probe::mincore) {
    if (!mincore_tells_the_truth(fd)) return cache;
    void* mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) return cache;
    cache.mapping_ = mapping;
  }
  cache.probe_ = probe;
  return cache;
}

PageCache::PageCache(PageCache&& other) noexcept { *this = std::move(other); }

PageCache& PageCache::operator=(PageCache&& other) noexcept {
  std::swap(probe_, other.probe_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  return *this;
}

PageCache::~PageCache() {
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_);
}

bool PageCache::holds(std::uint64_t offset, std::uint64_t bytes) const {
  if (probe_ == Probe::never || offset >= bytes_ || bytes == 0) return false;
  bytes = std::min(bytes, bytes_ - offset);
  switch (probe_) {
    case Probe::always: return true;
    case Probe::cachestat: return ask_cachestat(offset, bytes);
    case Probe::mincore: return ask_mincore(offset, bytes);
    case Probe::never: break;
  }
  return false;
}

bool PageCache::ask_cachestat(std::uint64_t offset, std::uint64_t bytes) const {
  Cachestat answer;
  const auto begin = round_down(offset, page_bytes()), end = round_up(offset + bytes, page_bytes());
  return cachestat(fd_, begin, end - begin, answer) && answer.cached >= (end - begin) / page_bytes();
}

bool PageCache::ask_mincore(std::uint64_t offset, std::uint64_t bytes) const {
  std::array<unsigned char, 1024> resident;
  const auto end = offset + bytes;
  for (auto at = round_down(offset, page_bytes()); at < end;) {
    const auto span = std::min(round_up(end - at, page_bytes()), resident.size() * page_bytes());
    if (::mincore(static_cast<std::byte*>(mapping_) + at, span, resident.data()) != 0) return false;
    const auto pages = static_cast<std::ptrdiff_t>(span / page_bytes());
    if (!std::all_of(resident.begin(), resident.begin() + pages, [](unsigned char page) { return page & 1; }))
      return false;
    at += span;
  }
  return true;
}

}  // namespace ckptd::source
