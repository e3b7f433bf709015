#include "daemon/source/page_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "common/unique_fd.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/unit/source/expect.h"

namespace ckptd::source {
namespace {

using tests::Folder;
using tests::write_file;
using Probe = PageCache::Probe;

constexpr std::size_t kPage = 4096, kBytes = 64 * kPage + 100;

/// A file of which nothing, or only the pages of `bytes` at `offset`, is in the page cache.
UniqueFd file_with_cached(const std::filesystem::path& path, std::size_t offset, std::size_t bytes) {
  write_file(path, std::string(kBytes, 'x'));
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(::fdatasync(fd.get()) == 0);
  REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
  REQUIRE(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM) == 0);  // no readahead
  std::vector<char> buffer(bytes);
  if (bytes != 0) REQUIRE(::pread(fd.get(), buffer.data(), bytes, static_cast<::off_t>(offset)) == static_cast<::ssize_t>(bytes));
  return fd;
}

TEST_CASE("a probe knows which pages are there, and asking brings none in") {
  Folder folder;
  for (auto probe : {Probe::cachestat, Probe::mincore}) {
    const auto fd = file_with_cached(folder / "file", 8 * kPage, 4 * kPage);
    const auto cache = PageCache::with(probe, fd.get(), kBytes);
    if (cache.probe() == Probe::never) continue;  // an older kernel
    INFO("probe " << static_cast<int>(probe));
    if (cache.holds(0, kPage)) continue;          // a file system that keeps everything in memory
    for (int again = 0; again < 2; ++again) {
      CHECK(cache.holds(8 * kPage, 4 * kPage));
      CHECK(cache.holds(8 * kPage, 1));
      CHECK(cache.holds(9 * kPage + 1, 2 * kPage));
      CHECK_FALSE(cache.holds(7 * kPage, 4 * kPage));
      CHECK_FALSE(cache.holds(8 * kPage, 4 * kPage + 1));
      CHECK_FALSE(cache.holds(0, kBytes));
      CHECK_FALSE(cache.holds(64 * kPage, 100));
      CHECK_FALSE(cache.holds(kBytes, 1));
      CHECK_FALSE(cache.holds(~std::uint64_t{0} - 5000, kPage));
      CHECK_FALSE(cache.holds(8 * kPage, 0));
    }
  }
}

TEST_CASE("the last page counts although the file ends in it") {
  Folder folder;
  for (auto probe : {Probe::cachestat, Probe::mincore}) {
    const auto fd = file_with_cached(folder / "file", 0, kBytes);
    const auto cache = PageCache::with(probe, fd.get(), kBytes);
    if (cache.probe() == Probe::never) continue;
    CHECK(cache.holds(0, kBytes));
    CHECK(cache.holds(0, ~std::uint64_t{0}));
    CHECK(cache.holds(64 * kPage, kPage));
  }
}

TEST_CASE("a file that is cut short after it was opened is asked about without harm") {
  Folder folder;
  for (auto probe : {Probe::cachestat, Probe::mincore}) {
    const auto fd = file_with_cached(folder / "file", 0, kBytes);
    const auto cache = PageCache::with(probe, fd.get(), kBytes);
    std::filesystem::resize_file(folder / "file", 10);
    CHECK_FALSE(cache.holds(kPage, 60 * kPage));
  }
}

TEST_CASE("a file in memory needs no question, an empty one has no answer, and what cannot be asked is not there") {
  Folder shared("/dev/shm");
  write_file(shared / "file", std::string(kBytes, 'x'));
  UniqueFd in_memory(::open((shared / "file").c_str(), O_RDONLY | O_CLOEXEC));
  const auto always = PageCache::of(in_memory.get(), kBytes);
  CHECK(always.probe() == Probe::always);
  CHECK(always.holds(0, kBytes));
  CHECK_FALSE(always.holds(kBytes, 1));

  Folder folder;
  write_file(folder / "empty", "");
  UniqueFd empty(::open((folder / "empty").c_str(), O_RDONLY | O_CLOEXEC));
  CHECK_FALSE(PageCache::of(empty.get(), 0).holds(0, 1));
  CHECK(PageCache::with(Probe::cachestat, -1, kBytes).probe() == Probe::never);
  CHECK(PageCache::of(-1, kBytes).probe() == Probe::never);
  CHECK_FALSE(PageCache().holds(0, 1));
}

TEST_CASE("a moved one still knows") {
  Folder folder;
  const auto fd = file_with_cached(folder / "file", 0, kBytes);
  auto first = PageCache::with(Probe::mincore, fd.get(), kBytes);
  const auto second = std::move(first);
  if (second.probe() == Probe::mincore) CHECK(second.holds(0, kBytes));
}

}  // namespace
}  // namespace ckptd::source
