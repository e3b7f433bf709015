// The CUDA backend as tests/contract sees it: over the library of tests/support/fake_cuda, which runs everywhere, and over
// the driver of the machine.
#pragma once

#include <catch2/catch.hpp>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "daemon/device/cuda/cuda_device.h"
#include "daemon/device/cuda/native.h"
#include "tests/contract/backends.h"
#include "tests/support/fake_cuda/control.h"

namespace ckptd::tests {

/// Which libcuda a backend is over, and what the seam does not offer of it.
struct CudaLibrary {
  std::string path;
  OpenedCuda opened{path};
  decltype(&cuMemcpy) copy = opened.find<decltype(&cuMemcpy)>("cuMemcpy");
  decltype(&cuLaunchHostFunc) launch = opened.find<decltype(&cuLaunchHostFunc)>("cuLaunchHostFunc");
};

struct OfFakeCuda {
  static CudaLibrary& library() {
    FakeCuda::get();  // first, because it sets how many GPUs there are
    static CudaLibrary fake{.path = FakeCuda::path()};
    return fake;
  }
};
struct OfThisMachine {
  static CudaLibrary& library() {
    static CudaLibrary real{.path = "libcuda.so.1"};
    return real;
  }
};

/// Keeps a stream from going on: a function that the driver calls in its turn and that returns on release().
template <class Of>
class HostFunctionHold {
 public:
  HostFunctionHold(device::Device& device, device::Stream& stream) {
    auto current = device::cuda::CurrentContext::of(device);
    REQUIRE(current);
    REQUIRE(Of::library().launch(device::cuda::native_stream(stream), &wait, this) == CUDA_SUCCESS);
  }
  HostFunctionHold(const HostFunctionHold&) = delete;
  HostFunctionHold& operator=(const HostFunctionHold&) = delete;
  /// The driver may still be in the function.
  ~HostFunctionHold() {
    release();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return left_; });
  }

  void release() {
    std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  static void wait(void* data) {
    auto& self = *static_cast<HostFunctionHold*>(data);
    std::unique_lock lock(self.mutex_);
    self.changed_.wait(lock, [&] { return self.released_; });
    self.left_ = true;
    self.changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false, left_ = false;
};

template <class Of>
class CudaBackend {
 public:
  using Hold = HostFunctionHold<Of>;
  static constexpr bool kInjectsFaults = false;
  static constexpr auto kFailure = Failure::cannot_be_caused;
  /// A driver's queue has an end, at about a thousand items: who goes beyond it waits for room.
  static constexpr int kQueued = 200;
  static constexpr std::chrono::microseconds kClockError{1'000};

  CudaBackend() {
    auto made = device::cuda::make_cuda_devices({.library = Of::library().path, .devices = {}, .system_root = "/"});
    if (!made) FAIL(made.error().sentence << " " << made.error().vendor);
    devices_ = *std::move(made);
    all().clear();
    for (const auto& each : devices_) all().push_back(each.get());
  }

  /// On a machine with fewer GPUs some indices name the same one.
  device::Device& device(unsigned index = 0) { return *devices_[index % devices_.size()]; }

  /// From any thread.
  static std::vector<std::byte> bytes_at(device::Range range) {
    std::vector<std::byte> bytes(range.bytes);
    for (device::Device* each : all()) {
      auto current = device::cuda::CurrentContext::of(*each);
      if (!current) continue;  // a lost one; any other can look
      const auto to = reinterpret_cast<CUdeviceptr>(bytes.data());
      if (Of::library().copy(to, range.address, bytes.size()) == CUDA_SUCCESS) return bytes;
    }
    return {};
  }

  /// The child is a program of its own, because a fork of a process that has used CUDA cannot.
  static int fare_of_a_child(const device::Export& exported, const std::vector<std::byte>& expected) {
    const auto& cuda = std::get<device::CudaExport>(exported);
    std::string handle;
    for (const auto byte : cuda.handle) handle += fmt::format("{:02x}", byte);
    // Beside this program, wherever both were copied to.
    const auto reader = std::filesystem::read_symlink("/proc/self/exe").replace_filename("cuda_ipc_reader");
    const auto command = fmt::format("'{}' '{}' {} {}", reader.native(), Of::library().path, handle, cuda.bytes);
    FILE* child = ::popen(command.c_str(), "w");
    if (child == nullptr) return -1;
    const bool written = std::fwrite(expected.data(), 1, expected.size(), child) == expected.size();
    const int status = ::pclose(child);
    return written && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  static std::vector<device::Device*>& all() {
    static std::vector<device::Device*> devices;
    return devices;
  }

  std::vector<std::unique_ptr<device::Device>> devices_;
};

using RealCudaBackend = CudaBackend<OfThisMachine>;

/// Looks at its end that nothing was done that a driver would punish, and that nothing is left but what a fence left.
class FakeCudaBackend {
 public:
  using Hold = HostFunctionHold<OfFakeCuda>;
  using Under = CudaBackend<OfFakeCuda>;
  static constexpr bool kInjectsFaults = false;
  static constexpr auto kFailure = Failure::of_device;
  static constexpr int kQueued = Under::kQueued;
  static constexpr auto kClockError = Under::kClockError;

  FakeCudaBackend() : before_(forget_the_past()), under_(std::make_unique<Under>()) {}
  FakeCudaBackend(const FakeCudaBackend&) = delete;
  FakeCudaBackend& operator=(const FakeCudaBackend&) = delete;
  ~FakeCudaBackend() {
    registration_.reset();
    target_.reset();
    under_.reset();
    INFO(fake().last_complaint());
    CHECK(fake().complaints() == 0);
    if (!fenced_) CHECK(fake().objects() == before_);
  }

  device::Device& device(unsigned index = 0) { return under_->device(index); }
  static std::vector<std::byte> bytes_at(device::Range range) { return Under::bytes_at(range); }
  static int fare_of_a_child(const device::Export& exported, const std::vector<std::byte>& expected) {
    return Under::fare_of_a_child(exported, expected);
  }

  /// Queues a copy after which the device is lost. The stream is one of device 0.
  Result<> queue_failure(device::Stream& stream) {
    fenced_ = true;
    target_ = CKPTD_TRY(device().allocate(sizeof source_));
    registration_ = CKPTD_TRY(device(1).register_host(std::as_writable_bytes(std::span(source_))));
    fake().pause(1);
    CKPTD_TRY(stream.copy_from_host(target_->range(), reinterpret_cast<const std::byte*>(source_)));
    fake().fail("work_copy", 1, CUDA_ERROR_ILLEGAL_ADDRESS, 0);
    fake().pause(0);
    return {};
  }

 private:
  static FakeCuda& fake() { return FakeCuda::get(); }
  static unsigned forget_the_past() {
    fake().fail_nothing();
    fake().revive();
    fake().forget_complaints();
    return fake().objects();
  }

  const unsigned before_;
  std::unique_ptr<Under> under_;
  bool fenced_ = false;
  char source_[64] = {};
  std::unique_ptr<device::Allocation> target_;
  std::unique_ptr<device::HostRegistration> registration_;
};

}  // namespace ckptd::tests
