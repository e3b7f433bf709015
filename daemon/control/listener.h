// Where a server listens: the control socket's file (who may own it, its mode, its end), or an address of TCP.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "common/http_client.h"
#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd::control {

/// A listening socket, and its file if it is a Unix socket: removed when this is destroyed, unless another file has taken
/// its place.
class Listener {
 public:
  /// Binds and listens; the file's mode is 0660 from the moment it exists and `group` (a name or a number, or empty)
  /// may use it. The file of a dead daemon is replaced. Errors: invalid_argument (a path of more than 107 bytes, an
  /// unknown group), conflict (something else than a socket is there), unavailable (somebody answers on it), denied and
  /// io as the system says. Blocks for at most a few seconds, while another daemon does the same.
  static Result<Listener> create(const std::filesystem::path& path, const std::string& group,
                                 std::chrono::milliseconds bind_timeout = std::chrono::seconds(5));

  /// TCP, on a numeric address or localhost; port 0 is one that is free. Errors: invalid_argument (no such address),
  /// busy (another program listens there), denied and io as the system says.
  static Result<Listener> create(const http::Endpoint& endpoint);

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener() { remove_file(); }

  /// Hands the descriptor over; the file stays ours.
  UniqueFd take_fd() { return std::move(fd_); }
  int family() const { return family_; }                  ///< AF_UNIX, AF_INET or AF_INET6
  const http::Endpoint& endpoint() const { return endpoint_; }  ///< with the port that was chosen
  bool is_reachable_from_outside() const { return is_outside_; }  ///< TCP, and not on a loopback address

  /// To be called while the socket still listens: until then nobody replaces the file, and its inode is not used again.
  void remove_file();

 private:
  Listener(UniqueFd fd, int family, http::Endpoint endpoint)
      : fd_(std::move(fd)), family_(family), endpoint_(std::move(endpoint)), path_(endpoint_.unix_path) {}
  Result<> remember_file();

  UniqueFd fd_;
  int family_;
  http::Endpoint endpoint_;
  bool is_outside_ = false;
  std::filesystem::path path_;  ///< empty: moved from, or TCP
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace ckptd::control
