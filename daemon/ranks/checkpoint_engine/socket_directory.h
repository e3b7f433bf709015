// The directory of the ranks' sockets: who may enter it, and which names in it are in use.
//
// Ranks are trusted with pickles of ours, so nobody but this daemon may place a socket where an engine is told to
// connect: the directory is a real one (no link), belongs to our uid and has mode 0750. Safe from any thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/unique_fd.h"

namespace ckptd::ranks::checkpoint_engine {

class SocketDirectory {
 public:
  /// The longest path that a Unix socket's address holds with libzmq.
  static constexpr std::size_t kPathLimitBytes = 107;
  static constexpr std::size_t kNameLength = 10;

  /// Errors: see Endpoints::create.
  static Result<SocketDirectory> create(const std::filesystem::path& path, const std::string& group);

  const std::filesystem::path& path() const { return path_; }
  const std::string& group() const { return group_; }  ///< for messages
  gid_t gid() const { return gid_; }

  std::string endpoint_of(std::string_view name) const;
  /// The name behind an endpoint of this directory; nothing for any other text.
  std::optional<std::string> name_in(std::string_view endpoint) const;

  /// Marks a name as ours. False when it is in use already.
  bool reserve(const std::string& name);
  /// Removes the socket file and frees the name.
  void release(const std::string& name) noexcept;

  /// Lets the group connect to a socket that was just bound.
  Result<> admit_group(const std::string& name) const;

  /// Removes what a predecessor left under this name, whatever it is but a directory.
  void remove_stale(const std::string& name) const noexcept;
  /// Removes every socket of the directory whose name is not in use.
  void remove_unused();

 private:
  SocketDirectory(std::filesystem::path path, std::string group, gid_t gid, UniqueFd fd);

  std::filesystem::path path_;
  std::string group_;
  gid_t gid_;
  UniqueFd fd_;  ///< names are looked up under it, so a directory that is renamed away is not followed
  struct InUse {
    std::mutex mutex;
    std::set<std::string> names;
  };
  std::unique_ptr<InUse> in_use_;
};

}  // namespace ckptd::ranks::checkpoint_engine
