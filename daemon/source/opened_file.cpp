#include "daemon/source/opened_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "common/units.h"
#include "daemon/source/json_text.h"
#include "daemon/weights/layout.h"

namespace ckptd::source {
namespace {

std::string shown(const std::filesystem::path& path) { return ckptd::shown(path.native()); }

std::unexpected<Error> system_failure(int error_number, std::string_view verb, const std::filesystem::path& path) {
  return std::unexpected(system_error(error_number, fmt::format("{} {}", verb, shown(path))));
}

FileState state_of(const struct stat& info) {
  return {.bytes = static_cast<std::uint64_t>(info.st_size),
          .modified = info.st_mtim,
          .changed = info.st_ctim,
          .inode = info.st_ino,
          .device = info.st_dev};
}

Result<FileState> state_of_open(int fd, const std::filesystem::path& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return system_failure(errno, "look at", path);
  if (!S_ISREG(info.st_mode))
    return fail(ErrorKind::invalid_argument, "{} is {}, not a regular file", shown(path),
                S_ISDIR(info.st_mode)    ? "a directory"
                : S_ISFIFO(info.st_mode) ? "a pipe"
                                         : "a device");
  return state_of(info);
}

std::unexpected<Error> not_opened(int error_number, const std::filesystem::path& path) {
  if (error_number == ENXIO)
    return fail(ErrorKind::invalid_argument, "{} is a socket or a device, not a regular file", shown(path));
  if (error_number == EMFILE || error_number == ENFILE)
    return fail(ErrorKind::no_space,
                "open {}: no descriptor is left, and each file of a checkpoint needs two while it is loaded; raise "
                "LimitNOFILE of the service",
                shown(path));
  std::error_code ignored;
  if (error_number == ENOENT && std::filesystem::is_symlink(std::filesystem::symlink_status(path, ignored)))
    return fail(ErrorKind::not_found, "{} is a link to a file that is not there; is its download complete?",
                shown(path));
  return system_failure(error_number, "open", path);
}

/// Where an open file really lies, however many links led there: nobody can exchange a link after this look.
Result<std::filesystem::path> resolved_path(int fd, const std::filesystem::path& path) {
  std::string target(PATH_MAX, '\0');
  auto length = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target.data(), target.size());
  if (length < 0) return system_failure(errno, "resolve through /proc/self/fd", path);
  target.resize(static_cast<std::size_t>(length));
  return std::filesystem::path(target);
}

bool equal(const ::timespec& a, const ::timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

std::unexpected<Error> shorter(const std::filesystem::path& path, std::uint64_t byte, std::uint64_t bytes) {
  return fail(ErrorKind::corrupt, "{} has no byte {} any more; when it was opened it had {} bytes: it was truncated",
              shown(path), byte, bytes);
}

/// Reads all of `into` through the page cache.
Result<> read_cached(int fd, std::uint64_t offset, std::span<std::byte> into, const OpenedFile& file) {
  while (!into.empty()) {
    auto got = ::pread(fd, into.data(), into.size(), static_cast<::off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return file.read_error(errno, offset);
    if (got == 0) return shorter(file.path(), offset, file.bytes());
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

}  // namespace

bool FileState::unchanged_since(const FileState& before) const {
  // The time of change too: whoever writes in place can set the time of modification back, and not that one.
  return same_file(before) && bytes == before.bytes && equal(modified, before.modified) &&
         equal(changed, before.changed);
}

std::string FileState::stamp() const {
  return fmt::format("{}-{}.{:09}-{}-{}", bytes, modified.tv_sec, modified.tv_nsec, inode, device);
}

OpenedFile::OpenedFile(std::filesystem::path path, UniqueFd fd, FileState opened)
    : path_(std::move(path)), fd_(std::move(fd)), page_cache_(PageCache::of(fd_.get(), opened.bytes)), opened_(opened) {}

OpenedFile::OpenedFile(OpenedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      direct_(std::move(other.direct_)),
      page_cache_(std::move(other.page_cache_)),
      opened_(other.opened_),
      direct_works_(other.direct_works_.load()) {}

Result<OpenedFile> OpenedFile::open(const std::filesystem::path& path, const Roots& roots, bool direct_io) {
  // O_NONBLOCK, so that a pipe without a writer opens at once and can be refused.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return not_opened(errno, path);
  if (roots.limited()) {
    const auto resolved = CKPTD_TRY(resolved_path(fd.get(), path));
    CKPTD_TRY(roots.admit(resolved, path));
  }
  auto state = CKPTD_TRY(state_of_open(fd.get(), path));
  OpenedFile file(path, std::move(fd), state);
  if (direct_io) file.open_direct();
  return file;
}

void OpenedFile::open_direct() {
  UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_DIRECT));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !state_of(info).same_file(opened_)) return;
  direct_ = std::move(fd);
  direct_works_ = true;
}

Result<std::uint64_t> OpenedFile::read(std::uint64_t offset, std::span<std::byte> into) const {
  if (offset >= bytes()) return 0;
  const auto wanted = std::min<std::uint64_t>(into.size(), bytes() - offset);
  const auto address = reinterpret_cast<std::uintptr_t>(into.data());
  std::uint64_t done = 0;
  if ((offset | address | into.size()) % weights::kBlockBytes == 0 && is_direct() && !is_in_memory(offset, wanted))
    done = CKPTD_TRY(read_direct(offset, into, wanted));
  CKPTD_TRY(read_cached(fd_.get(), offset + done, into.subspan(done, wanted - done), *this));
  return wanted;
}

/// How many of the `wanted` bytes came; what is missing is for the page cache to read or to explain.
Result<std::uint64_t> OpenedFile::read_direct(std::uint64_t offset, std::span<std::byte> into,
                                              std::uint64_t wanted) const {
  std::uint64_t done = 0;
  while (done < wanted && done % weights::kBlockBytes == 0 && is_direct()) {
    const auto rest = into.subspan(done, round_up(wanted - done, weights::kBlockBytes));
    auto got = ::pread(direct_.get(), rest.data(), rest.size(), static_cast<::off_t>(offset + done));
    if (got > 0) done += static_cast<std::uint64_t>(got);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EINVAL) refuse_direct();
    else if (got < 0) return read_error(errno, offset + done);
  }
  return std::min(done, wanted);
}

std::unexpected<Error> OpenedFile::read_error(int error_number, std::uint64_t offset) const {
  return system_failure(error_number, fmt::format("read at byte {} of", offset), path_);
}

Result<> OpenedFile::check_unchanged() const {
  const auto now = CKPTD_TRY(state_of_open(fd_.get(), path_));
  if (now.bytes < bytes()) return shorter(path_, now.bytes, bytes());
  struct stat info {};
  if (::stat(path_.c_str(), &info) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) return system_failure(errno, "look at", path_);
    return fail(ErrorKind::corrupt, "{} was removed while it was read", shown(path_));
  }
  if (!state_of(info).same_file(opened_))
    return fail(ErrorKind::corrupt, "{} was replaced by another file while it was read", shown(path_));
  if (!now.unchanged_since(opened_))
    return fail(ErrorKind::corrupt, "{} was written to while it was read (or its owner, mode or links were changed)",
                shown(path_));
  return {};
}

}  // namespace ckptd::source
