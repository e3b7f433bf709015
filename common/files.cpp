#include "common/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "common/unique_fd.h"

namespace ckptd {
namespace {

Result<> write_all(int fd, std::string_view content, const std::filesystem::path& path) {
  while (!content.empty()) {
    auto written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return std::unexpected(system_error(errno, fmt::format("write {}", path.string())));
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

Result<std::string> read_small_file(const std::filesystem::path& path, std::uint64_t limit_bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return std::unexpected(system_error(errno, fmt::format("open {}", path.string())));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return std::unexpected(system_error(errno, fmt::format("stat {}", path.string())));
  if (!S_ISREG(info.st_mode))
    return fail(ErrorKind::invalid_argument, "{} is not a regular file", path.string());
  std::string content;
  char block[4096];
  for (;;) {
    auto got = ::read(fd.get(), block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected(system_error(errno, fmt::format("read {}", path.string())));
    if (got == 0) return content;
    content.append(block, static_cast<std::size_t>(got));
    if (content.size() > limit_bytes)
      return fail(ErrorKind::invalid_argument, "{} is larger than {} bytes", path.string(), limit_bytes);
  }
}

Result<> write_file_atomically(const std::filesystem::path& path, std::string_view content, unsigned mode) {
  auto beside = path;
  beside += ".new";
  UniqueFd fd(::open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return std::unexpected(system_error(errno, fmt::format("create {}", beside.string())));
  CKPTD_TRY(write_all(fd.get(), content, beside));
  if (::fsync(fd.get()) != 0) return std::unexpected(system_error(errno, fmt::format("sync {}", beside.string())));
  if (::rename(beside.c_str(), path.c_str()) != 0)
    return std::unexpected(system_error(errno, fmt::format("rename {} over {}", beside.string(), path.string())));
  auto parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  UniqueFd directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0)
    return std::unexpected(system_error(errno, fmt::format("sync {}", parent.string())));
  return {};
}

}  // namespace ckptd
