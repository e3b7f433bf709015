#include "daemon/device/host/host_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <system_error>
#include <thread>

#include "common/host_memory.h"
#include "common/unique_fd.h"
#include "common/units.h"

namespace ckptd::device::host {
namespace {

/// Every mapping of host devices in this process, so that a copy to a wild or freed address is an error of its stream.
/// One for all devices, because copies go between devices.
class Mappings {
 public:
  void add(Range range) {
    std::unique_lock lock(mutex_);
    bytes_by_address_.emplace(range.address, range.bytes);
  }

  void remove(Range range) {
    std::unique_lock lock(mutex_);
    bytes_by_address_.erase(range.address);
  }

  /// Streams look things up under a shared lock, which orders no reader after another: an exclusive one would hide
  /// missing waits between streams from ThreadSanitizer.
  bool contain(Range range) const {
    std::shared_lock lock(mutex_);
    auto after = bytes_by_address_.upper_bound(range.address);
    if (after == bytes_by_address_.begin()) return false;
    const auto [address, bytes] = *std::prev(after);
    const std::uint64_t offset = range.address - address;
    return offset <= bytes && range.bytes <= bytes - offset;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::map<std::uintptr_t, std::uint64_t> bytes_by_address_;
};

Mappings& mappings() {
  static Mappings all;
  return all;
}

class Mapping final : public Allocation {
 public:
  enum class Origin { ours, opened };

  static Result<std::unique_ptr<Mapping>> create(UniqueFd fd, std::uint64_t bytes, Origin origin) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED)
      return std::unexpected(system_error(errno, fmt::format("map {} of host device memory", show_bytes(bytes))));
    return std::make_unique<Mapping>(std::move(fd), at, bytes, origin);
  }

  Mapping(UniqueFd fd, void* at, std::uint64_t bytes, Origin origin)
      : fd_(std::move(fd)), at_(at), range_{reinterpret_cast<std::uintptr_t>(at), bytes}, origin_(origin) {
    mappings().add(range_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  ~Mapping() override {
    mappings().remove(range_);
    toucher_ = {};  // ended before its pages go
    ::munmap(at_, range_.bytes);
  }

  /// Enters the reserved pages into the page table on a thread of its own: done by the first copies themselves it makes
  /// them several times slower, and done before them it makes them late. Without it everything works all the same.
  void touch_in_background() {
    if (range_.bytes < kWorthAThreadBytes) return;
    try {
      toucher_ = std::jthread([this](std::stop_token stop) {
        for (std::uint64_t at = 0; at < range_.bytes && !stop.stop_requested(); at += kTouchBytes)
          ::madvise(static_cast<char*>(at_) + at, std::min(kTouchBytes, range_.bytes - at), MADV_POPULATE_WRITE);
      });
    } catch (const std::system_error&) {
    }
  }

  Range range() const override { return range_; }

  Result<Export> export_to_processes() override {
    if (origin_ == Origin::opened)
      return fail(ErrorKind::unsupported,
                  "this memory was opened from another allocation and cannot be exported again; export the original");
    return HostExport{fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()), range_.bytes};
  }

 private:
  static constexpr std::uint64_t kTouchBytes = 4 * kMiB, kWorthAThreadBytes = 32 * kMiB;

  UniqueFd fd_;
  void* at_;
  Range range_;
  Origin origin_;
  std::jthread toucher_;
};

Result<> reserve(int fd, std::uint64_t bytes) {
  const auto length = static_cast<off_t>(bytes);
  if (::ftruncate(fd, length) != 0) return std::unexpected(system_error(errno, "set the size of a memfd"));
  int outcome = 0;
  do {
    outcome = ::fallocate(fd, 0, 0, length);
  } while (outcome != 0 && errno == EINTR);
  if (outcome != 0) return std::unexpected(system_error(errno, "reserve the pages of a memfd"));
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return std::unexpected(system_error(errno, "seal the size of a memfd"));
  return {};
}

Result<> check_exported_file(int fd, const HostExport& exported) {
  struct stat status {};
  if (::fstat(fd, &status) != 0)
    return std::unexpected(system_error(errno, fmt::format("look at exported memory {}", exported.path)));
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (!S_ISREG(status.st_mode) || seals < 0 || (seals & F_SEAL_SHRINK) == 0)
    return fail(ErrorKind::invalid_argument,
                "{} is not memory that a host device exported: it is no memfd sealed against shrinking", exported.path);
  if (exported.bytes == 0 || static_cast<std::uint64_t>(status.st_size) != exported.bytes)
    return fail(ErrorKind::invalid_argument,
                "{} holds {} bytes, but {} bytes were exported; its owner has probably gone and the name was reused",
                exported.path, status.st_size, exported.bytes);
  return {};
}

}  // namespace

Result<std::uint64_t> free_memory_bytes(const std::filesystem::path& system_root) {
  if (!read_machine(system_root))
    return fail(ErrorKind::io, "{} does not tell MemTotal and MemAvailable in kB, so the free memory is unknown",
                (system_root / "proc/meminfo").string());
  return std::ranges::min(read_ceilings(system_root), {}, &Ceiling::available_bytes).available_bytes;
}

Result<std::unique_ptr<Allocation>> allocate_memory(std::uint64_t bytes, std::string_view device,
                                                    const std::filesystem::path& system_root) {
  if (bytes == 0) return fail(ErrorKind::invalid_argument, "{}: an allocation needs at least one byte", device);
  static std::mutex one_at_a_time;
  std::lock_guard lock(one_at_a_time);

  const std::uint64_t free_bytes = CKPTD_TRY(free_memory_bytes(system_root));
  const auto with_numbers = [&](Error error) {
    return std::move(error)
        .with_fact("asked_bytes", std::to_string(bytes))
        .with_fact("free_bytes", std::to_string(free_bytes));
  };
  if (bytes > free_bytes)
    return std::unexpected(with_numbers(
        Error{ErrorKind::no_space,
              fmt::format("{}: {} ({} bytes) were asked for and {} ({} bytes) of host memory are free; ask for less or "
                          "free memory",
                          device, show_bytes(bytes), bytes, show_bytes(free_bytes), free_bytes)}));

  UniqueFd fd(::memfd_create("ckptd-device", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return std::unexpected(system_error(errno, fmt::format("{}: create a memfd", device)));
  if (auto reserved = reserve(fd.get(), bytes); !reserved)
    return std::unexpected(
        with_numbers(reserved.error().within(fmt::format("{}: allocate {}", device, show_bytes(bytes)))));
  auto mapping = CKPTD_TRY(Mapping::create(std::move(fd), bytes, Mapping::Origin::ours));
  mapping->touch_in_background();
  return mapping;
}

Result<std::unique_ptr<Allocation>> open_memory(const HostExport& exported) {
  UniqueFd fd(::open(exported.path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return std::unexpected(system_error(errno, fmt::format("open exported memory {}", exported.path)));
  CKPTD_TRY(check_exported_file(fd.get(), exported));
  return Mapping::create(std::move(fd), exported.bytes, Mapping::Origin::opened);
}

bool is_host_memory(Range range) { return range.bytes == 0 || mappings().contain(range); }

}  // namespace ckptd::device::host
