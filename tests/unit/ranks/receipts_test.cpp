#include "daemon/ranks/receipts/receipts.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <stdexcept>
#include <vector>

#include "proto/checkpoint_engine/counter_file.h"

namespace ckptd::ranks::checkpoint_engine {
namespace {

namespace layout = proto::checkpoint_engine::counter_file;
using Seen = Receipt::Seen;

/// In place of /dev/shm, on it: the same kind of file system.
class Directory {
 public:
  Directory() {
    std::string name = "/dev/shm/ckptd-receipts-test-XXXXXX";
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp in /dev/shm");
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }
  std::filesystem::path of(const Receipt& receipt) const { return path_ / receipt.file().substr(1); }

 private:
  std::filesystem::path path_;
};

Receipts::Options in(const Directory& directory) { return {.group = std::nullopt, .directory = directory.path()}; }

Receipt take(Receipts& receipts) {
  auto taken = receipts.take();
  REQUIRE(taken);
  return *std::move(taken);
}

/// What torch does when the last tensor over the memory dies: it maps the file, counts itself in, counts the memory
/// down, counts itself out and removes the name if it was the last.
void count_down(const std::filesystem::path& file, std::uint64_t index) {
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(fd);
  struct stat info{};
  REQUIRE(::fstat(fd.get(), &info) == 0);
  REQUIRE(info.st_size == layout::kBytes);  // torch would make it longer and so destroy the header
  auto* bytes = static_cast<char*>(::mmap(nullptr, layout::kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  REQUIRE(bytes != MAP_FAILED);
  auto* users = reinterpret_cast<std::int32_t*>(bytes);
  ++*users;
  *reinterpret_cast<std::int64_t*>(bytes + 64 + 8 * index) -= 1;
  if (--*users == 0) ::unlink(file.c_str());
  ::munmap(bytes, layout::kBytes);
}

void write_value(const std::filesystem::path& file, std::uint64_t index, std::int64_t value) {
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::pwrite(fd.get(), &value, sizeof value, static_cast<off_t>(64 + 8 * index)) == sizeof value);
}

}  // namespace

TEST_CASE("a receipt is held until torch counts it down, and other receipts are not touched") {
  Directory directory;
  Receipts receipts(in(directory));
  CHECK(directory.files() == 0);  // none before one is wanted
  const auto first = take(receipts), second = take(receipts);
  CHECK(directory.files() == 1);
  CHECK(first.file() == second.file());
  CHECK(first.file().starts_with("/ckptd-receipts-"));
  CHECK(first.index() != second.index());
  CHECK(std::filesystem::file_size(directory.of(first)) == 80064);
  CHECK(first.look() == Seen::held);
  count_down(directory.of(first), first.index());
  CHECK(first.look() == Seen::released);
  CHECK(second.look() == Seen::held);
  CHECK(directory.files() == 1);  // torch did not find itself the last one
  count_down(directory.of(second), second.index());
  CHECK(second.look() == Seen::released);
}

TEST_CASE("the pages are there before anybody maps them") {
  Directory directory;
  Receipts receipts(in(directory));
  const auto receipt = take(receipts);
  struct stat info{};
  REQUIRE(::stat(directory.of(receipt).c_str(), &info) == 0);
  CHECK(info.st_blocks * 512 >= 80064);
}

TEST_CASE("a value that no honest rank leaves proves nothing") {
  Directory directory;
  Receipts receipts(in(directory));
  const auto receipt = take(receipts);
  const auto value = GENERATE(as<std::int64_t>(), -1, 2, 1'000'000, INT64_MIN, INT64_MAX);
  write_value(directory.of(receipt), receipt.index(), value);
  CHECK(receipt.look() == Seen::lost);
  CHECK(take(receipts).look() == Seen::held);
}

TEST_CASE("who counts down twice has said nothing") {
  Directory directory;
  Receipts receipts(in(directory));
  const auto receipt = take(receipts);
  count_down(directory.of(receipt), receipt.index());
  count_down(directory.of(receipt), receipt.index());
  CHECK(receipt.look() == Seen::lost);
}

TEST_CASE("a file that a rank cuts short loses its receipts and no more, and the next one is in a new file") {
  Directory directory;
  Receipts receipts(in(directory));
  const auto receipt = take(receipts);
  REQUIRE(::truncate(directory.of(receipt).c_str(), 0) == 0);
  CHECK(receipt.look() == Seen::lost);
  // Longer again it is all zeros, which must not be taken for receipts.
  REQUIRE(::truncate(directory.of(receipt).c_str(), layout::kBytes) == 0);
  CHECK(receipt.look() == Seen::lost);
  REQUIRE(::truncate(directory.of(receipt).c_str(), 100) == 0);
  const auto next = take(receipts);
  CHECK(next.file() != receipt.file());
  CHECK(next.look() == Seen::held);
}

TEST_CASE("a file whose name a rank removes: what was counted counts, what was not never will") {
  Directory directory;
  Receipts receipts(in(directory));
  const auto released = take(receipts), held = take(receipts);
  count_down(directory.of(released), released.index());
  REQUIRE(std::filesystem::remove(directory.of(held)));
  CHECK(released.look() == Seen::released);
  CHECK(held.look() == Seen::lost);
  std::ofstream(directory.of(held)) << "somebody else's file of that name";
  CHECK(held.look() == Seen::lost);
  const auto next = take(receipts);
  CHECK(next.file() != held.file());
  CHECK(next.look() == Seen::held);
}

TEST_CASE("no index is given twice; a file that is used up is followed by another and goes with its last receipt") {
  Directory directory;
  Receipts receipts(in(directory));
  auto first = std::optional(take(receipts));
  std::set<std::uint64_t> given{first->index()};
  for (std::uint64_t i = 1; i < layout::kCounters; ++i) {
    const auto receipt = take(receipts);
    REQUIRE(receipt.file() == first->file());
    given.insert(receipt.index());
  }
  CHECK(given.size() == layout::kCounters);
  CHECK(*given.rbegin() == layout::kCounters - 1);
  const auto next = take(receipts);
  CHECK(next.file() != first->file());
  CHECK(directory.files() == 2);
  CHECK(first->look() == Seen::held);
  first.reset();
  CHECK(directory.files() == 1);
}

TEST_CASE("an orderly end leaves no file") {
  Directory directory;
  {
    Receipts receipts(in(directory));
    take(receipts);
  }
  CHECK(directory.files() == 0);
}

TEST_CASE("files of daemons that ended are removed at the start, and nobody else's") {
  Directory directory;
  const auto left = directory.path() / "ckptd-receipts-0123456789abcdef";
  std::ofstream(left) << "left by a daemon that was killed";
  std::ofstream(directory.path() / "torch_1_2") << "torch's";
  std::filesystem::create_symlink(directory.path() / "torch_1_2", directory.path() / "ckptd-receipts-a-link");
  std::filesystem::create_directory(directory.path() / "ckptd-receipts-a-directory");
  Receipts running(in(directory));
  const auto receipt = take(running);
  Receipts starting(in(directory));
  CHECK_FALSE(std::filesystem::exists(left));
  CHECK(directory.files() == 4);
  CHECK(receipt.look() == Seen::held);
  // A rank of this uid that has one of them open does not keep it.
  std::ofstream(left) << "again";
  UniqueFd opened(::open(left.c_str(), O_RDWR | O_CLOEXEC));
  Receipts another(in(directory));
  CHECK_FALSE(std::filesystem::exists(left));
}

TEST_CASE("a file of receipts is one uid's, or its group's too") {
  Directory directory;
  struct stat info{};
  {
    Receipts receipts(in(directory));
    REQUIRE(::stat(directory.of(take(receipts)).c_str(), &info) == 0);
    CHECK((info.st_mode & 07777) == 0600);
  }
  Receipts receipts({.group = ::getegid(), .directory = directory.path()});
  const auto receipt = take(receipts);
  REQUIRE(::stat(directory.of(receipt).c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0660);
  CHECK(info.st_gid == ::getegid());
}

TEST_CASE("a rank of another uid counts down if it is in the group, and only then") {
  if (::geteuid() != 0) {
    WARN("not root: nobody else can be played");
    return;
  }
  constexpr gid_t kGroup = 54321;
  constexpr uid_t kRank = 54322;
  Directory directory;
  ::chmod(directory.path().c_str(), 0711);
  Receipts receipts({.group = kGroup, .directory = directory.path()});
  const auto receipt = take(receipts);
  const auto open_as = [&](gid_t group) {
    const auto child = ::fork();
    if (child == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setgid(group) != 0 || ::setuid(kRank) != 0) ::_exit(2);
      const int fd = ::open(directory.of(receipt).c_str(), O_RDWR);
      if (fd < 0) ::_exit(1);
      const std::int64_t zero = 0;
      ::_exit(::pwrite(fd, &zero, 8, static_cast<off_t>(layout::offset_of(receipt.index()))) == 8 ? 0 : 3);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  CHECK(open_as(kRank) == 1);
  CHECK(receipt.look() == Seen::held);
  CHECK(open_as(kGroup) == 0);
  CHECK(receipt.look() == Seen::released);
}

TEST_CASE("a full or missing /dev/shm is an error that says so") {
  Receipts nowhere({.group = std::nullopt, .directory = "/dev/shm/there-is-no-such-directory"});
  auto refused = nowhere.take();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().sentence.find("file of receipts") != std::string::npos);

  Directory directory;
  if (::mount("none", directory.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
    WARN("no tmpfs can be mounted here");
    return;
  }
  {
    Receipts receipts(in(directory));
    auto full = receipts.take();
    CHECK_FALSE(full);
    if (!full) CHECK(full.error().kind == ErrorKind::no_space);
    CHECK(directory.files() == 0);
  }
  ::umount(directory.path().c_str());
}

}  // namespace ckptd::ranks::checkpoint_engine
