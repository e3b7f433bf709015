// The CUDA backend as tests/contract sees it: over the driver of the machine, and over any other libcuda that a struct like
// OfThisMachine names (fake_cuda_backend.h). Nothing of a fake is in here: these programs go to machines with GPUs.
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
#include "tests/support/opened_cuda.h"

namespace ckptd::tests {

/// Which libcuda a backend is over, and what the seam does not offer of it.
struct CudaLibrary {
  std::string path;
  OpenedCuda opened{path};
  decltype(&cuMemcpy) copy = opened.find<decltype(&cuMemcpy)>("cuMemcpy");
  decltype(&cuLaunchHostFunc) launch = opened.find<decltype(&cuLaunchHostFunc)>("cuLaunchHostFunc");
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
    for (const auto& each : devices_) all().push_back(each.get());
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;
  ~CudaBackend() {
    for (const auto& each : devices_) std::erase(all(), each.get());  // contracts make a backend beside another
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

}  // namespace ckptd::tests
