// Device memory made of memfds, IPC handles that name them, and registrations of host memory.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <utility>

#include "tests/support/fake_cuda/machine.h"

namespace ckptd::fake_cuda {
namespace {

constexpr std::size_t kGranuleBytes = 2 << 20;
constexpr std::size_t kFilledBytes = 4 << 20;  ///< so much of new memory has bytes that nobody may count on
constexpr char kMagic[] = "FAKECUDA";

bool overlap(std::uintptr_t one, std::size_t one_bytes, std::uintptr_t other, std::size_t other_bytes) {
  return one < other + other_bytes && other < one + one_bytes;
}

}  // namespace

const Block* Machine::block_at(std::uintptr_t address, std::size_t bytes) const {
  auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin()) return nullptr;
  const auto& [start, block] = *std::prev(after);
  const auto offset = address - start;
  return offset <= block.bytes && bytes <= block.bytes - offset ? &block : nullptr;
}

bool Machine::starts_in_block(std::uintptr_t address) const { return block_at(address, 1) != nullptr; }

Machine::Place Machine::place_of(std::uintptr_t address, std::size_t bytes) const {
  if (block_at(address, bytes) != nullptr) return Place::device;
  bool touched = false;
  for (const auto& [start, length] : registered_) {
    if (address >= start && address + bytes <= start + length) return Place::registered;
    touched = touched || overlap(address, bytes, start, length);
  }
  return touched ? Place::mixed : Place::pageable;
}

std::uint64_t Machine::used(int gpu) const {
  std::uint64_t bytes = 0;
  for (const auto& [address, block] : blocks_)
    if (block.gpu == gpu && block.opened == 0) bytes += (block.bytes + kGranuleBytes - 1) / kGranuleBytes * kGranuleBytes;
  return bytes;
}

CUresult Machine::allocate(CUdeviceptr* address, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  const int gpu = current()->gpu;
  if (bytes == 0) return complain(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of nothing");
  if (bytes % kGranuleBytes != 0)
    complain(CUDA_SUCCESS, "cuMemAlloc of no multiple of 2 MiB: its IPC handle would export neighbours");
  const auto limit = limits_.at(static_cast<std::size_t>(gpu));
  if (used(gpu) > limit || bytes > limit - used(gpu)) return CUDA_ERROR_OUT_OF_MEMORY;
  const int memfd = ::memfd_create("fake-cuda", MFD_CLOEXEC);
  if (memfd < 0 || ::ftruncate(memfd, static_cast<off_t>(bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
  if (at == MAP_FAILED) {
    ::close(memfd);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::memset(at, 0xcd, std::min(bytes, kFilledBytes));
  Block block;
  block.gpu = gpu;
  block.context = current();
  block.bytes = bytes;
  block.memfd = memfd;
  *address = reinterpret_cast<std::uintptr_t>(at);
  blocks_.emplace(*address, std::move(block));
  return CUDA_SUCCESS;
}

CUresult Machine::free(CUdeviceptr address) {
  std::unique_lock lock(mutex_);
  const auto at = blocks_.find(address);
  if (at == blocks_.end() || at->second.opened > 0)
    return complain(CUDA_ERROR_INVALID_VALUE, "cuMemFree of what is no allocation, or no more");
  if (at->second.context != current()) complain(CUDA_SUCCESS, "cuMemFree in another context than the allocation's");
  // A driver waits then; a caller that relies on it has lost count of its work.
  if (in_use(address, at->second.bytes)) {
    complain(CUDA_SUCCESS, "memory is freed that queued copies use");
    progress_.wait_for(lock, std::chrono::seconds(10), [&] { return !in_use(address, at->second.bytes); });
  }
  // Who maps it holds a lock on the file, until it closes the mapping or ends.
  if (::flock(at->second.memfd, LOCK_EX | LOCK_NB) != 0)
    complain(CUDA_SUCCESS, "memory is freed that another process still maps, which is undefined");
  ::munmap(reinterpret_cast<void*>(address), at->second.bytes);
  ::close(at->second.memfd);
  blocks_.erase(at);
  return CUDA_SUCCESS;
}

CUresult Machine::memory_info(std::size_t* free_bytes, std::size_t* total_bytes) {
  std::lock_guard lock(mutex_);
  const int gpu = current()->gpu;
  const auto limit = limits_.at(static_cast<std::size_t>(gpu)), taken = used(gpu);
  *total_bytes = limit;
  *free_bytes = taken > limit ? 0 : limit - taken;
  return CUDA_SUCCESS;
}

CUresult Machine::range_of(CUdeviceptr* start, std::size_t* bytes, CUdeviceptr address) {
  std::lock_guard lock(mutex_);
  auto after = blocks_.upper_bound(address);
  if (block_at(address, 1) == nullptr) return complain(CUDA_ERROR_NOT_FOUND, "cuMemGetAddressRange of no memory");
  --after;
  if (start != nullptr) *start = after->first;
  if (bytes != nullptr) *bytes = after->second.bytes;
  return CUDA_SUCCESS;
}

CUresult Machine::export_memory(CUipcMemHandle* handle, CUdeviceptr address) {
  std::lock_guard lock(mutex_);
  const auto at = blocks_.find(address);
  if (at == blocks_.end() || at->second.opened > 0)
    return complain(CUDA_ERROR_INVALID_VALUE, "cuIpcGetMemHandle of what is no allocation");
  struct stat status {};
  ::fstat(at->second.memfd, &status);
  Handle made{};
  std::memcpy(made.magic, kMagic, sizeof made.magic);
  made.pid = static_cast<std::uint32_t>(::getpid());
  made.fd = static_cast<std::uint32_t>(at->second.memfd);
  made.inode = status.st_ino;
  made.bytes = at->second.bytes;
  made.gpu = static_cast<std::uint32_t>(at->second.gpu);
  made.serial = ++serial_;
  std::memcpy(handle->reserved, &made, sizeof made);
  return CUDA_SUCCESS;
}

CUresult Machine::open_memory(CUdeviceptr* address, const CUipcMemHandle& handle) {
  std::lock_guard lock(mutex_);
  Handle named{};
  std::memcpy(&named, handle.reserved, sizeof named);
  if (std::memcmp(named.magic, kMagic, sizeof named.magic) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (named.pid == static_cast<std::uint32_t>(::getpid())) return CUDA_ERROR_INVALID_CONTEXT;  // as NVIDIA's does
  if (named.gpu >= limits_.size()) return CUDA_ERROR_INVALID_DEVICE;
  const std::string bytes(handle.reserved, sizeof handle.reserved);
  for (auto& [start, block] : blocks_)
    if (block.opened > 0 && block.handle == bytes && block.context == current()) {
      ++block.opened;
      *address = start;
      return CUDA_SUCCESS;
    }
  const auto path = "/proc/" + std::to_string(named.pid) + "/fd/" + std::to_string(named.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return CUDA_ERROR_INVALID_HANDLE;
  struct stat status {};
  const bool same = ::fstat(fd, &status) == 0 && status.st_ino == named.inode &&
                    static_cast<std::uint64_t>(status.st_size) == named.bytes;
  // The lock tells the owner that somebody maps it; where it is refused the memory is just being freed.
  const bool there = same && ::flock(fd, LOCK_SH | LOCK_NB) == 0;
  void* at = there ? ::mmap(nullptr, named.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (at == MAP_FAILED) {
    ::close(fd);
    return CUDA_ERROR_INVALID_HANDLE;
  }
  Block block;
  block.gpu = static_cast<int>(named.gpu);
  block.context = current();
  block.bytes = named.bytes;
  block.opened = 1;
  block.memfd = fd;
  block.handle = bytes;
  *address = reinterpret_cast<std::uintptr_t>(at);
  blocks_.emplace(*address, std::move(block));
  return CUDA_SUCCESS;
}

CUresult Machine::close_memory(CUdeviceptr address) {
  std::unique_lock lock(mutex_);
  const auto at = blocks_.find(address);
  if (at == blocks_.end() || at->second.opened == 0)
    return complain(CUDA_ERROR_INVALID_VALUE, "cuIpcCloseMemHandle of what is no mapping, or no more");
  if (--at->second.opened > 0) return CUDA_SUCCESS;
  if (in_use(address, at->second.bytes)) {
    complain(CUDA_SUCCESS, "a mapping is closed that queued copies use");
    progress_.wait_for(lock, std::chrono::seconds(10), [&] { return !in_use(address, at->second.bytes); });
  }
  ::munmap(reinterpret_cast<void*>(address), at->second.bytes);
  ::close(at->second.memfd);
  blocks_.erase(at);
  return CUDA_SUCCESS;
}

CUresult Machine::register_host(std::uintptr_t address, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes == 0) return complain(CUDA_ERROR_INVALID_VALUE, "cuMemHostRegister of nothing");
  for (const auto& [start, length] : registered_)
    if (overlap(address, bytes, start, length)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  registered_.emplace(address, bytes);
  return CUDA_SUCCESS;
}

CUresult Machine::unregister_host(std::uintptr_t address) {
  std::lock_guard lock(mutex_);
  const auto at = registered_.find(address);
  if (at == registered_.end())
    return complain(place_of(address, 1) == Place::registered ? CUDA_ERROR_INVALID_VALUE
                                                              : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                    "cuMemHostUnregister of what is not registered there, or no more");
  if (in_use(address, at->second)) complain(CUDA_SUCCESS, "host memory is unregistered that queued copies read");
  registered_.erase(at);
  return CUDA_SUCCESS;
}

}  // namespace ckptd::fake_cuda
