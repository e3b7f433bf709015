#include "daemon/ranks/checkpoint_engine/socket_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "common/group.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

constexpr std::string_view kScheme = "ipc://";
constexpr mode_t kDirectoryMode = 0750, kSocketMode = 0660;

Result<> check_length(const std::filesystem::path& path) {
  auto longest = path.native().size() + 1 + SocketDirectory::kNameLength;
  if (longest <= SocketDirectory::kPathLimitBytes) return {};
  auto most = SocketDirectory::kPathLimitBytes - 1 - SocketDirectory::kNameLength;
  return fail(ErrorKind::invalid_argument,
              "sockets for ranks in {} would have paths of {} bytes, and a Unix socket's path may have {}; choose a "
              "shorter --runtime-dir, so that this directory's path has at most {} bytes",
              path.native(), longest, SocketDirectory::kPathLimitBytes, most);
}

/// Everything is decided on the open directory, so that nothing can be swapped between a check and its use.
Result<UniqueFd> open_own_directory(const std::filesystem::path& path) {
  if (::mkdir(path.c_str(), kDirectoryMode) != 0 && errno != EEXIST)
    return std::unexpected(system_error(errno, fmt::format("create the directory of rank sockets {}", path.native())));
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && (errno == ELOOP || errno == ENOTDIR))
    return fail(ErrorKind::denied,
                "{} is a link or no directory; rank sockets need a directory of our own there: remove it",
                path.native());
  if (!fd) return std::unexpected(system_error(errno, fmt::format("open {}", path.native())));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return std::unexpected(system_error(errno, fmt::format("stat {}", path.native())));
  if (info.st_uid != ::geteuid())
    return fail(ErrorKind::denied,
                "{} belongs to uid {} and we run as uid {}: its owner could replace rank sockets; remove it",
                path.native(), info.st_uid, ::geteuid());
  return fd;
}

Result<> give_to_group(int fd, const std::filesystem::path& path, const std::string& group, gid_t gid) {
  if (::fchown(fd, static_cast<uid_t>(-1), gid) != 0)
    return std::unexpected(
        system_error(errno, fmt::format("give {} to rank_group '{}' (gid {}); the daemon must be root or "
                                        "a member of that group",
                                        path.native(), group, gid)));
  if (::fchmod(fd, kDirectoryMode) != 0)
    return std::unexpected(system_error(errno, fmt::format("set the mode of {}", path.native())));
  return {};
}

bool is_name(std::string_view name) {
  return name.size() == SocketDirectory::kNameLength &&
         std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

}  // namespace

SocketDirectory::SocketDirectory(std::filesystem::path path, std::string group, gid_t gid, UniqueFd fd)
    : path_(std::move(path)),
      group_(std::move(group)),
      gid_(gid),
      fd_(std::move(fd)),
      in_use_(std::make_unique<InUse>()) {}

Result<SocketDirectory> SocketDirectory::create(const std::filesystem::path& path, const std::string& group) {
  std::error_code error;
  auto absolute = std::filesystem::absolute(path, error).lexically_normal();
  if (error) return std::unexpected(system_error(error.value(), fmt::format("find the place of {}", path.native())));
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  CKPTD_TRY(check_length(absolute));
  auto gid = CKPTD_TRY(gid_of(group, "rank_group"));
  auto fd = CKPTD_TRY(open_own_directory(absolute));
  CKPTD_TRY(give_to_group(fd.get(), absolute, group, gid));
  auto shown = group.empty() ? fmt::format("gid {}", gid) : group;
  return SocketDirectory(std::move(absolute), std::move(shown), gid, std::move(fd));
}

std::string SocketDirectory::endpoint_of(std::string_view name) const {
  return fmt::format("{}{}/{}", kScheme, path_.native(), name);
}

std::optional<std::string> SocketDirectory::name_in(std::string_view endpoint) const {
  auto slash = endpoint.find_last_of('/');
  if (slash == std::string_view::npos) return std::nullopt;
  std::string name(endpoint.substr(slash + 1));
  if (!is_name(name) || endpoint_of(name) != endpoint) return std::nullopt;
  return name;
}

bool SocketDirectory::reserve(const std::string& name) {
  std::lock_guard lock(in_use_->mutex);
  return in_use_->names.insert(name).second;
}

void SocketDirectory::release(const std::string& name) noexcept {
  std::lock_guard lock(in_use_->mutex);
  remove_stale(name);
  in_use_->names.erase(name);
}

Result<> SocketDirectory::admit_group(const std::string& name) const {
  if (::fchownat(fd_.get(), name.c_str(), static_cast<uid_t>(-1), gid_, AT_SYMLINK_NOFOLLOW) != 0)
    return std::unexpected(system_error(errno, fmt::format("give {} to group {}", endpoint_of(name), group_)));
  if (::fchmodat(fd_.get(), name.c_str(), kSocketMode, 0) != 0)
    return std::unexpected(system_error(errno, fmt::format("set the mode of {}", endpoint_of(name))));
  return {};
}

void SocketDirectory::remove_stale(const std::string& name) const noexcept { ::unlinkat(fd_.get(), name.c_str(), 0); }

void SocketDirectory::remove_unused() {
  std::error_code error;
  std::lock_guard lock(in_use_->mutex);
  for (std::filesystem::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
    auto name = entry->path().filename().string();
    std::error_code ignored;
    if (entry->symlink_status(ignored).type() == std::filesystem::file_type::socket && !in_use_->names.contains(name))
      remove_stale(name);
  }
}

}  // namespace ckptd::ranks::checkpoint_engine
