#include "daemon/store/touch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "common/host_memory.h"
#include "common/units.h"

namespace ckptd::store {
namespace {

constexpr std::uint64_t kPieceBytes = 16 * kMiB;
constexpr std::uint64_t kMostThreads = 4;  // more only contend for the kernel's locks

/// 0, or what the kernel said.
int populate(std::span<std::byte> piece) {
  while (madvise(piece.data(), piece.size(), MADV_POPULATE_WRITE) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno != EINVAL) return errno;
    // An older kernel. Adding nothing atomically writes the page and keeps its content.
    const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    for (std::size_t at = 0; at < piece.size(); at += page_bytes)
      std::atomic_ref(reinterpret_cast<unsigned char&>(piece[at])).fetch_or(0);
    return 0;
  }
  return 0;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1, and headers of C libraries later than that
#endif

/// Puts what was touched into huge pages as far as there are any; the content stays. Unlike MADV_HUGEPAGE the kernel does
/// this for shared memory whatever shmem_enabled says. It is a favour: without it everything works, more slowly.
void gather_in_huge_pages(std::span<std::byte> piece) {
  const auto begin = round_up(reinterpret_cast<std::uintptr_t>(piece.data()), kHugePageBytes);
  const auto end = (reinterpret_cast<std::uintptr_t>(piece.data()) + piece.size()) / kHugePageBytes * kHugePageBytes;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_COLLAPSE);
}

/// What the touching threads share.
struct Work {
  std::span<std::byte> memory;
  std::stop_token stop;
  std::atomic<std::uint64_t> next = 0;
  std::atomic<std::uint64_t> done = 0;
  std::atomic<int> error_number = 0;

  bool touch_one_piece() {
    if (stop.stop_requested() || error_number != 0) return false;
    auto begin = next.fetch_add(kPieceBytes);
    if (begin >= memory.size()) return false;
    auto piece = memory.subspan(begin, std::min<std::uint64_t>(kPieceBytes, memory.size() - begin));
    if (int error = populate(piece)) {
      error_number = error;
      return false;
    }
    gather_in_huge_pages(piece);
    done += piece.size();
    return true;
  }
};

std::vector<std::jthread> start_helpers(Work& work) {
  auto pieces = (work.memory.size() + kPieceBytes - 1) / kPieceBytes;
  auto threads = std::min({kMostThreads, pieces, std::uint64_t{std::max(1U, std::thread::hardware_concurrency())}});
  std::vector<std::jthread> helpers;
  helpers.reserve(kMostThreads);
  try {
    for (std::uint64_t i = 1; i < threads; ++i)
      helpers.emplace_back([&work] { while (work.touch_one_piece()) {} });
  } catch (const std::system_error&) {
    // No more threads allowed: the ones there are, at least the caller's, do it.
  }
  return helpers;
}

}  // namespace

Result<> touch(std::span<std::byte> memory, std::stop_token stop, const std::function<void(std::uint64_t)>& touched) {
  Work work{.memory = memory, .stop = stop};
  {
    auto helpers = start_helpers(work);
    while (work.touch_one_piece())
      if (touched) touched(work.done);
  }
  if (int error = work.error_number) return std::unexpected(system_error(error, "getting pages for a store segment"));
  if (work.done < memory.size()) return fail(ErrorKind::cancelled, "stopped while memory was being made ready");
  if (touched) touched(memory.size());
  return {};
}

}  // namespace ckptd::store
