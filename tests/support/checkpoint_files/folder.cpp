#include "tests/support/checkpoint_files/folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace ckptd::tests {

namespace fs = std::filesystem;

fs::path memory_directory() { return fs::is_directory("/dev/shm") ? "/dev/shm" : "/tmp"; }

Folder::Folder(const fs::path& parent) {
  auto name = (parent / "ckptd-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a directory in " + parent.string());
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_file(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(1));
}

void rewrite_in_place(const fs::path& path, std::string_view content) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file << content;
  file.close();
  if (!file) throw std::runtime_error("cannot write over " + path.string());
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return content.str();
}

void drop_from_page_cache(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error("cannot open " + path.string());
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

}  // namespace ckptd::tests
