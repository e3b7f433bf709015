// The devices that the contracts of tests/contract are instantiated for. A Backend owns its devices and knows what the
// seam does not offer: how to look at device memory, how to hold a stream and how to make its work fail, how another
// process fares. Where a promise of the contract has two forms, a constant says which one the backend keeps.
// tests/contract/cuda_backend.h and fake_cuda_backend.h have those of CUDA.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "daemon/device/host/host_device.h"
#include "tests/support/shuffling_device/seed.h"
#include "tests/support/shuffling_device/shuffling_device.h"

namespace ckptd::tests {

/// "" when both are equal, else where they differ first: shorter than thousands of bytes in a report.
inline std::string difference(const std::vector<std::byte>& seen, const std::vector<std::byte>& expected) {
  if (seen.size() != expected.size()) return fmt::format("{} bytes, expected {}", seen.size(), expected.size());
  const auto [at, other] = std::mismatch(seen.begin(), seen.end(), expected.begin());
  if (at == seen.end()) return "";
  return fmt::format("byte {} is {:#x}, expected {:#x}", at - seen.begin(), std::to_integer<unsigned>(*at),
                     std::to_integer<unsigned>(*other));
}

/// What a child process finds behind an export: 0 when it reads `expected` and cannot change the size, else a number
/// that says which step failed. The child makes system calls only, because this process has threads.
inline int fare_of_a_child(const device::Export& exported, const std::vector<std::byte>& expected) {
  const auto& host = std::get<device::HostExport>(exported);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open(host.path.c_str(), O_RDWR);
    if (fd < 0) ::_exit(1);
    void* at = ::mmap(nullptr, host.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) ::_exit(2);
    if (host.bytes != expected.size() || std::memcmp(at, expected.data(), expected.size()) != 0) ::_exit(3);
    if (::ftruncate(fd, 0) == 0 || errno != EPERM) ::_exit(4);
    if (::ftruncate(fd, static_cast<off_t>(host.bytes * 2)) == 0 || errno != EPERM) ::_exit(5);
    *static_cast<std::byte*>(at) = std::byte{0xa5};
    ::_exit(0);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

/// What a failure of queued work takes with it, and whether the backend can cause one (queue_failure()).
enum class Failure { of_stream, of_device, cannot_be_caused };

/// Keeps a stream from going on: its last item so far wakes a Waker that is full and blocks.
class FullWaker {
 public:
  FullWaker(device::Device&, device::Stream& stream) : waker_(Waker::create().value()) {
    ::fcntl(waker_.fd(), F_SETFL, 0);
    const std::uint64_t full = std::numeric_limits<std::uint64_t>::max() - 1;
    [[maybe_unused]] const auto written = ::write(waker_.fd(), &full, sizeof full);
    stream.wake_when_done(waker_).value();
  }

  void release() {
    ::fcntl(waker_.fd(), F_SETFL, O_NONBLOCK);
    waker_.drain();
  }

 private:
  Waker waker_;
};

/// What devices of host memory have in common, whoever orders their work.
struct OfHostMemory {
  using Hold = FullWaker;
  static constexpr auto kFailure = Failure::of_stream;
  static constexpr int kQueued = 5'000;                ///< so many items are queued without waiting for the first
  static constexpr std::chrono::microseconds kClockError{0};  ///< of Event::reached_at()

  /// In here and nowhere else, so that no contract reads device memory through a pointer.
  static std::vector<std::byte> bytes_at(device::Range range) {
    const auto* first = reinterpret_cast<const std::byte*>(range.address);
    return {first, first + range.bytes};
  }
  static int fare_of_a_child(const device::Export& exported, const std::vector<std::byte>& expected) {
    return tests::fare_of_a_child(exported, expected);
  }

  /// Queues work that fails when it is its turn: a copy to memory that is nobody's.
  static Result<> queue_failure(device::Stream& stream) {
    static const std::byte source{};
    return stream.copy_from_host({8, 1}, &source);
  }
};

class HostBackend : public OfHostMemory {
 public:
  static constexpr bool kInjectsFaults = false;

  HostBackend() {
    for (unsigned i = 0; i < 4; ++i) devices_.push_back(device::host::make_host_device(i));
  }

  device::Device& device(unsigned index = 0) { return *devices_[index]; }

 private:
  std::vector<std::unique_ptr<device::Device>> devices_;
};

class ShufflingBackend : public OfHostMemory {
 public:
  static constexpr bool kInjectsFaults = true;

  ShufflingBackend() : shuffler_(seed_of_run() + ++made_) {
    for (unsigned i = 0; i < 4; ++i) devices_.push_back(shuffler_.wrap(device::host::make_host_device(i)));
  }

  device::Device& device(unsigned index = 0) { return *devices_[index]; }
  Shuffler& shuffler() { return shuffler_; }

 private:
  inline static unsigned made_ = 0;  // each backend of a run shuffles differently
  Shuffler shuffler_;
  std::vector<std::unique_ptr<device::Device>> devices_;
};

}  // namespace ckptd::tests
