// The CUDA backend of tests/contract/cuda_backend.h over the library of tests/support/fake_cuda, which runs everywhere.
#pragma once

#include "tests/contract/cuda_backend.h"
#include "tests/support/fake_cuda/control.h"

namespace ckptd::tests {

struct OfFakeCuda {
  static CudaLibrary& library() {
    FakeCuda::get();  // first, because it sets how many GPUs there are
    static CudaLibrary fake{.path = FakeCuda::path()};
    return fake;
  }
};

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
