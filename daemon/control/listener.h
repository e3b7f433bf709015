// The control socket's file: who may own it, its mode, and its end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd::control {

/// A listening Unix socket and its file. Removes the file when destroyed, unless another file has taken its place.
class Listener {
 public:
  /// Binds and listens; the file's mode is 0660 from the moment it exists and `group` (a name or a number, or empty)
  /// may use it. The file of a dead daemon is replaced. Errors: invalid_argument (a path of more than 107 bytes, an
  /// unknown group), conflict (something else than a socket is there), unavailable (somebody answers on it), denied and
  /// io as the system says. Blocks for at most a few seconds, while another daemon does the same.
  static Result<Listener> create(const std::filesystem::path& path, const std::string& group,
                                 std::chrono::milliseconds bind_timeout = std::chrono::seconds(5));

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener() { remove_file(); }

  /// Hands the descriptor over; the file stays ours.
  UniqueFd take_fd() { return std::move(fd_); }

  /// To be called while the socket still listens: until then nobody replaces the file, and its inode is not used again.
  void remove_file();

 private:
  Listener(UniqueFd fd, std::filesystem::path path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Result<> remember_file();

  UniqueFd fd_;
  std::filesystem::path path_;  ///< empty: moved from, or not bound
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace ckptd::control
