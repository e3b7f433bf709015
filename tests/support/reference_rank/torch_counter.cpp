#include "tests/support/reference_rank/torch_counter.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>

namespace ckptd::reference_rank {

void count_down(const std::string& file, std::int64_t index) {
  constexpr std::int64_t kHeaderBytes = 64, kBytes = kHeaderBytes + 8 * 10'000;
  const int fd = ::shm_open(file.c_str(), O_RDWR, 0600);
  if (fd < 0) return;
  struct stat info{};
  // A shorter file is made as long, and its first byte written.
  if (::fstat(fd, &info) != 0 ||
      (info.st_size < kBytes && (::ftruncate(fd, kBytes) != 0 || ::write(fd, "", 1) != 1))) {
    ::close(fd);
    return;
  }
  void* mapped = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (mapped == MAP_FAILED) return;
  std::atomic_ref<std::int32_t> users(*static_cast<std::int32_t*>(mapped));
  ++users;
  static_cast<std::int64_t*>(mapped)[kHeaderBytes / 8 + index] -= 1;
  if (--users == 0) ::shm_unlink(file.c_str());
  ::munmap(mapped, kBytes);
}

}  // namespace ckptd::reference_rank
