#include "common/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace ckptd {
namespace {

/// " (pid 812)", or nothing: the holder may not have written it yet, or somebody else has written in the file.
std::string holder(int fd) {
  char text[16];
  auto got = ::pread(fd, text, sizeof text, 0);
  std::string pid(text, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  pid = pid.substr(0, pid.find('\n'));
  if (pid.empty() || pid.find_first_not_of("0123456789") != std::string::npos) return {};
  return fmt::format(" (pid {})", pid);
}

Result<> write_pid(int fd, const std::filesystem::path& file) {
  auto pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
    return std::unexpected(system_error(errno, fmt::format("write the pid to {}", file.string())));
  return {};
}

}  // namespace

Result<UniqueFd> lock_directory(const std::filesystem::path& directory, std::string_view role, std::string_view flag) {
  const auto file = directory / "lock";
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640));
  if (!fd) return std::unexpected(system_error(errno, fmt::format("open {}", file.string())));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return std::unexpected(system_error(errno, fmt::format("lock {}", file.string())));
    return fail(ErrorKind::unavailable,
                "another ckptd{} holds the {} {}; stop it, or give this one another {}", holder(fd.get()), role,
                directory.string(), flag);
  }
  CKPTD_TRY(write_pid(fd.get(), file));
  return fd;
}

}  // namespace ckptd
