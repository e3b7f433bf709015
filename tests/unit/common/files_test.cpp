#include "common/files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace ckptd {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/ckptd-common-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  fs::path operator/(const char* name) const { return path_ / name; }
  std::size_t size() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), {})); }

 private:
  fs::path path_;
};

mode_t mode_of(const fs::path& path) {
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  return info.st_mode & 07777;
}

TEST_CASE("what is written is read back, whatever its bytes and length") {
  Folder folder;
  std::string bytes;
  for (int i = 0; i < 10'000; ++i) bytes += static_cast<char>(i);
  for (const std::string& content : {std::string(), std::string("x"), std::string(4096, '\0'), bytes}) {
    REQUIRE(write_file_atomically(folder / "file", content));
    auto read = read_small_file(folder / "file");
    REQUIRE(read);
    CHECK(*read == content);
    CHECK(folder.size() == 1);
  }
}

TEST_CASE("the limit is the largest size that is read") {
  Folder folder;
  REQUIRE(write_file_atomically(folder / "file", std::string(5000, 'x')));
  CHECK(read_small_file(folder / "file", 5000));
  auto large = read_small_file(folder / "file", 4999);
  REQUIRE_FALSE(large);
  CHECK(large.error().kind == ErrorKind::invalid_argument);
  CHECK(large.error().sentence.find((folder / "file").string()) != std::string::npos);
}

TEST_CASE("files that claim to be empty are read") {
  auto status = read_small_file("/proc/self/status");
  REQUIRE(status);
  CHECK(status->find("VmRSS") != std::string::npos);
}

TEST_CASE("what is no regular file is refused without waiting") {
  Folder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  fs::create_directory(folder / "directory");
  for (auto path : {folder / "pipe", folder / "directory", fs::path("/dev/zero")}) {
    auto read = read_small_file(path);
    REQUIRE_FALSE(read);
    CHECK(read.error().sentence.find(path.string()) != std::string::npos);
  }
  auto missing = read_small_file(folder / "missing");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().kind == ErrorKind::not_found);
}

TEST_CASE("a new file gets the mode that was asked for") {
  Folder folder;
  auto old = ::umask(0);
  auto written = write_file_atomically(folder / "secret", "x", 0600);
  auto by_default = write_file_atomically(folder / "plain", "x");
  ::umask(old);
  REQUIRE(written);
  REQUIRE(by_default);
  CHECK(mode_of(folder / "secret") == 0600);
  CHECK(mode_of(folder / "plain") == 0640);
}

TEST_CASE("what a crash left beside the file neither lasts nor shows") {
  Folder folder;
  std::ofstream(folder / "file.new") << "half of something that is much longer than the new content";
  REQUIRE(write_file_atomically(folder / "file", "new"));
  CHECK(*read_small_file(folder / "file") == "new");
  CHECK(folder.size() == 1);
}

TEST_CASE("a write that fails leaves the old content") {
  Folder folder;
  REQUIRE(write_file_atomically(folder / "file", "old"));
  fs::create_directory(folder / "file.new");
  auto written = write_file_atomically(folder / "file", "new");
  REQUIRE_FALSE(written);
  CHECK(written.error().sentence.find((folder / "file.new").string()) != std::string::npos);
  CHECK(*read_small_file(folder / "file") == "old");

  fs::create_directory(folder / "directory");
  CHECK_FALSE(write_file_atomically(folder / "directory", "new"));
  CHECK(fs::is_directory(folder / "directory"));
  auto missing = write_file_atomically(folder / "missing" / "file", "new");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().kind == ErrorKind::not_found);
}

TEST_CASE("a link beside the file is not followed") {
  Folder folder;
  std::ofstream(folder / "victim") << "precious";
  fs::create_symlink(folder / "victim", folder / "file.new");
  CHECK_FALSE(write_file_atomically(folder / "file", "new"));
  CHECK(*read_small_file(folder / "victim") == "precious");
}

TEST_CASE("a reader sees the old or the new content, never half") {
  Folder folder;
  const std::string one(100'000, '1'), two(300'000, '2');
  REQUIRE(write_file_atomically(folder / "file", one));
  std::atomic<bool> done = false;
  std::atomic<int> torn = 0, seen = 0;
  std::thread reader([&] {
    do {
      auto content = read_small_file(folder / "file");
      ++seen;
      if (!content || (*content != one && *content != two)) ++torn;
    } while (!done);
  });
  int failed = 0;
  for (int i = 0; i < 40; ++i) failed += !write_file_atomically(folder / "file", i % 2 ? one : two);
  done = true;
  reader.join();
  CHECK(failed == 0);
  CHECK(torn == 0);
  CHECK(seen > 0);
}

TEST_CASE("a descriptor has one owner and is closed once") {
  auto is_open = [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; };
  int first = ::dup(0), second = ::dup(0);
  REQUIRE(first >= 0);
  REQUIRE(second >= 0);
  {
    UniqueFd owner(first);
    UniqueFd moved(std::move(owner));
    CHECK(moved.get() == first);
    moved = UniqueFd(second);
    CHECK_FALSE(is_open(first));
    CHECK(moved.get() == second);
    CHECK(is_open(second));
  }
  CHECK_FALSE(is_open(second));
  CHECK_FALSE(UniqueFd());
}

}  // namespace
}  // namespace ckptd
