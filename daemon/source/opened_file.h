// One regular file, held open: who opened it keeps seeing the same file, and learns when somebody changed it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <span>
#include <string>

#include "common/result.h"
#include "common/unique_fd.h"
#include "daemon/source/page_cache.h"
#include "daemon/source/uri.h"

namespace ckptd::source {

/// What fstat() said of a file.
struct FileState {
  std::uint64_t bytes = 0;
  ::timespec modified{};
  ::timespec changed{};
  ::ino_t inode = 0;
  ::dev_t device = 0;

  bool same_file(const FileState& other) const { return inode == other.inode && device == other.device; }
  bool unchanged_since(const FileState& before) const;

  /// For weights::File::stamp. Without the time of change: chmod and a new hard link move that one and no byte, and a
  /// version that is loaded would wrongly count as another one.
  std::string stamp() const;
};

/// Owns the descriptors. Reads may come from any threads at once and block as the file system does.
class OpenedFile {
 public:
  /// Never waits for a pipe's other end. invalid_argument for whatever is no regular file, denied outside the roots.
  static Result<OpenedFile> open(const std::filesystem::path& path, const Roots& roots, bool direct_io);

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t bytes() const { return opened_.bytes; }
  std::string stamp() const { return opened_.stamp(); }

  /// As Source::read(). What lies in `into` behind the bytes that it counts is undefined.
  Result<std::uint64_t> read(std::uint64_t offset, std::span<std::byte> into) const;

  /// As Source::is_in_memory(), for this file.
  bool is_in_memory(std::uint64_t offset, std::uint64_t bytes) const { return page_cache_.holds(offset, bytes); }

  /// For reads that others queue: whether direct ones work, through which descriptor, and that they turned out not to.
  bool is_direct() const { return direct_works_.load(std::memory_order_relaxed); }
  int direct_fd() const { return direct_.get(); }
  void refuse_direct() const { direct_works_.store(false, std::memory_order_relaxed); }
  std::unexpected<Error> read_error(int error_number, std::uint64_t offset) const;

  /// As Source::check_unchanged(), for this file.
  Result<> check_unchanged() const;

  OpenedFile(OpenedFile&& other) noexcept;

 private:
  OpenedFile(std::filesystem::path path, UniqueFd fd, FileState opened);
  void open_direct();
  Result<std::uint64_t> read_direct(std::uint64_t offset, std::span<std::byte> into, std::uint64_t wanted) const;

  std::filesystem::path path_;
  UniqueFd fd_;
  UniqueFd direct_;
  PageCache page_cache_;  ///< of fd_
  FileState opened_;
  mutable std::atomic<bool> direct_works_ = false;  ///< false for good once the file system refused
};

}  // namespace ckptd::source
