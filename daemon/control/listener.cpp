#include "daemon/control/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "common/deadline.h"
#include "common/group.h"
#include "common/units.h"

namespace ckptd::control {
namespace {

constexpr std::size_t kPathBytes = sizeof(sockaddr_un::sun_path) - 1;
constexpr mode_t kMode = 0660;

std::unexpected<Error> failed(std::string_view what, const std::filesystem::path& path) {
  return std::unexpected(system_error(errno, fmt::format("{} {}", what, path.native())));
}

Result<sockaddr_un> address_of(const std::filesystem::path& path) {
  const auto& text = path.native();
  if (text.empty() || text.find('\0') != text.npos)
    return fail(ErrorKind::invalid_argument, "'{}' is no path of a control socket", text);
  if (text.size() > kPathBytes)
    return fail(
        ErrorKind::invalid_argument,
        "the control socket {} has a path of {} bytes, a Unix socket's has at most {}; choose a shorter runtime "
        "directory",
        text, text.size(), kPathBytes);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  text.copy(address.sun_path, kPathBytes);
  return address;
}

Result<UniqueFd> open_socket(int flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) return std::unexpected(system_error(errno, "open a Unix socket"));
  return fd;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

// ---- one at a time ----

/// Two daemons that start at once would both find the same stale file, and the slower one would remove the socket of
/// the faster one. A lock on the directory holds one of them back, and leaves nothing behind.
Result<UniqueFd> lock_directory(const std::filesystem::path& directory, std::chrono::milliseconds timeout) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return failed("open the control socket's directory", directory);
  auto deadline = Deadline::in(timeout);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL) break;  // a file system without locks
    if (errno != EWOULDBLOCK && errno != EINTR) return failed("lock the directory", directory);
    if (deadline.passed())
      return fail(ErrorKind::busy, "another program has kept {} locked for {}; is a second ckptd starting there?",
                  directory.native(), show_seconds(std::chrono::duration<double>(timeout).count()));
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return fd;
}

// ---- what is there already ----

std::unexpected<Error> is_running(int fd, const std::filesystem::path& path) {
  ucred who{};
  socklen_t size = sizeof who;
  bool known = fd >= 0 && ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.pid > 0;
  auto pid = known ? fmt::format("process {}", who.pid) : "its process is not known";
  return fail(ErrorKind::unavailable,
              "another ckptd ({}) is running on {}; stop it or choose another runtime directory", pid, path.native());
}

/// Makes room for bind(): removes a socket that nobody listens on, refuses everything else.
Result<> clear(const std::filesystem::path& path, const sockaddr_un& address) {
  struct stat there {};
  if (::lstat(path.c_str(), &there) != 0) {
    if (errno == ENOENT) return {};
    return failed("look at", path);
  }
  if (!S_ISSOCK(there.st_mode))
    return fail(ErrorKind::conflict,
                "{} is there and is no socket; it is left alone, so remove it or choose another path", path.native());
  // Without blocking: a daemon that is alive but stuck, with a full backlog, must not make us wait.
  auto probe = CKPTD_TRY(open_socket(SOCK_NONBLOCK));
  if (::connect(probe.get(), generic(address), sizeof address) == 0) return is_running(probe.get(), path);
  if (errno == EAGAIN || errno == EINPROGRESS) return is_running(-1, path);
  if (errno == ENOENT) return {};
  if (errno != ECONNREFUSED) return failed("ask whether another daemon is running on", path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return failed("remove the socket of a dead daemon", path);
  return {};
}

// ---- the group ----

Result<> give_to_group(const std::filesystem::path& path, const std::string& group) {
  if (group.empty()) return {};
  auto id = CKPTD_TRY(gid_of(group, "control_group"));
  if (::lchown(path.c_str(), static_cast<uid_t>(-1), id) == 0) return {};
  auto error = system_error(errno, fmt::format("give {} to the group '{}'", path.native(), group));
  error.sentence += "; the daemon's user must be a member of that group";
  return std::unexpected(std::move(error));
}

}  // namespace

Result<Listener> Listener::create(const std::filesystem::path& path, const std::string& group,
                                  std::chrono::milliseconds bind_timeout) {
  auto address = CKPTD_TRY(address_of(path));
  auto lock = CKPTD_TRY(lock_directory(path.has_parent_path() ? path.parent_path() : ".", bind_timeout));
  CKPTD_TRY(clear(path, address));
  auto fd = CKPTD_TRY(open_socket(SOCK_NONBLOCK));
  // Linux takes the file's mode from the socket's own, less the umask, which is everybody's and must not be touched.
  if (::fchmod(fd.get(), kMode) != 0) return failed("restrict the mode of", path);
  if (::bind(fd.get(), generic(address), sizeof address) != 0) return failed("bind the control socket", path);
  Listener listener(std::move(fd), AF_UNIX, {.host = {}, .port = 0, .unix_path = path.native()});
  CKPTD_TRY(listener.remember_file());
  CKPTD_TRY(give_to_group(path, group));
  if (::chmod(path.c_str(), kMode) != 0) return failed("set the mode of", path);
  if (::listen(listener.fd_.get(), SOMAXCONN) != 0) return failed("listen on", path);
  return listener;
}

namespace {

struct TcpAddress {
  sockaddr_storage bytes{};
  socklen_t size = 0;
  bool is_loopback = false;
};

Result<TcpAddress> tcp_address(const http::Endpoint& endpoint) {
  const auto host = endpoint.host == "localhost" ? std::string("127.0.0.1") : endpoint.host;
  TcpAddress address;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    address.is_loopback = ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    address.size = sizeof v4;
    std::memcpy(&address.bytes, &v4, sizeof v4);
  } else if (::inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    address.is_loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
    address.size = sizeof v6;
    std::memcpy(&address.bytes, &v6, sizeof v6);
  } else {
    return fail(ErrorKind::invalid_argument, "'{}' is no address of this machine: write it in numbers, as in 127.0.0.1",
                endpoint.host);
  }
  return address;
}

Result<std::uint16_t> port_of(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0)
    return std::unexpected(system_error(errno, "look at the port that was chosen"));
  // The port stands at the same place in both families.
  sockaddr_in v4{};
  std::memcpy(&v4, &bound, sizeof v4);
  return ntohs(v4.sin_port);
}

}  // namespace

Result<Listener> Listener::create(const http::Endpoint& endpoint) {
  auto address = CKPTD_TRY(tcp_address(endpoint));
  UniqueFd fd(::socket(address.bytes.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return std::unexpected(system_error(errno, "open a TCP socket"));
  const int yes = 1;  // a successor must not wait for connections of its predecessor to be forgotten
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.size) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0) {
    if (errno == EADDRINUSE)
      return fail(ErrorKind::busy, "another program listens on {}; choose another port", endpoint.show());
    return std::unexpected(system_error(errno, fmt::format("listen on {}", endpoint.show())));
  }
  auto bound = endpoint;
  bound.port = CKPTD_TRY(port_of(fd.get()));
  Listener listener(std::move(fd), address.bytes.ss_family, std::move(bound));
  listener.is_outside_ = !address.is_loopback;
  return listener;
}

Result<> Listener::remember_file() {
  struct stat file {};
  if (::lstat(path_.c_str(), &file) != 0) return failed("look at", path_);
  device_ = file.st_dev;
  inode_ = file.st_ino;
  return {};
}

Listener::Listener(Listener&& other) noexcept
    : fd_(std::move(other.fd_)),
      family_(other.family_),
      endpoint_(std::move(other.endpoint_)),
      is_outside_(other.is_outside_),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

void Listener::remove_file() {
  if (path_.empty()) return;
  struct stat file {};
  bool ours = ::lstat(path_.c_str(), &file) == 0 && file.st_dev == device_ && file.st_ino == inode_;
  if (ours) ::unlink(path_.c_str());
  path_.clear();
}

}  // namespace ckptd::control
