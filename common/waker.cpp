#include "common/waker.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <cstdint>

namespace ckptd {

Result<Waker> Waker::create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return std::unexpected(system_error(errno, "create an eventfd"));
  return Waker(std::move(fd));
}

void Waker::wake() const noexcept {
  const std::uint64_t one = 1;
  // The only possible failure is a counter at its maximum, and then the reader is awake already.
  [[maybe_unused]] auto written = ::write(fd_.get(), &one, sizeof one);
}

void Waker::drain() const noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] auto got = ::read(fd_.get(), &count, sizeof count);
}

}  // namespace ckptd
