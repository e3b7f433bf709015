// A folder for one test, and files in it. Failures throw: a test that cannot write its files has nothing to say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace ckptd::tests {

/// A place where many or large files cost no disk: /dev/shm, or /tmp where that is missing.
std::filesystem::path memory_directory();

/// A new directory that is gone, with everything in it, at the end.
class Folder {
 public:
  explicit Folder(const std::filesystem::path& parent = "/tmp");
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Creates missing directories, and gives the file a time of modification an hour ago: file systems count time in ticks
/// of some milliseconds, and a change within the tick of creation would not show.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Writes over the file's own bytes: same inode, other content.
void rewrite_in_place(const std::filesystem::path& path, std::string_view content);

std::string read_file(const std::filesystem::path& path);

/// Puts the file on its disk and out of the page cache, as far as the file system has a disk.
void drop_from_page_cache(const std::filesystem::path& path);

}  // namespace ckptd::tests
