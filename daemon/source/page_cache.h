// Which bytes of an open file lie in memory already, asked without reading any and without starting readahead.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckptd::source {

class PageCache {
 public:
  /// How the kernel is asked. `always` and `never` are answers that need no question.
  enum class Probe { never, always, cachestat, mincore };

  PageCache() = default;  ///< never
  /// Picks what works for this file: cachestat(2) (Linux 6.5), else mincore(2) on a mapping that nobody touches. Files of
  /// tmpfs and its kin are always in memory. `fd` is borrowed and stays open.
  static PageCache of(int fd, std::uint64_t bytes);
  /// With a given probe, or `never` where that one does not work.
  static PageCache with(Probe probe, int fd, std::uint64_t bytes);

  PageCache(PageCache&& other) noexcept;
  PageCache& operator=(PageCache&& other) noexcept;
  ~PageCache();

  Probe probe() const { return probe_; }

  /// Whether every page of the range is there. A hint: pages come and go. Safe from any thread, does not block.
  bool holds(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  bool ask_cachestat(std::uint64_t offset, std::uint64_t bytes) const;
  bool ask_mincore(std::uint64_t offset, std::uint64_t bytes) const;

  Probe probe_ = Probe::never;
  int fd_ = -1;
  std::uint64_t bytes_ = 0;
  void* mapping_ = nullptr;  ///< of the whole file, for mincore; never read: a file may be cut short
};

}  // namespace ckptd::source
