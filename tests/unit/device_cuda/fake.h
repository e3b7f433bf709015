// Each test begins and ends with a fake driver that works and has nothing of ours, and hears no complaint in between.
#pragma once

#include <catch2/catch.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/device/cuda/cuda_device.h"
#include "tests/support/fake_cuda/control.h"

namespace ckptd::device::cuda {

using namespace std::chrono_literals;

class CleanFake {
 public:
  CleanFake() {
    fake().fail_nothing();
    fake().revive();
    fake().forget_complaints();
    objects_ = fake().objects();
  }
  ~CleanFake() {
    fake().fail_nothing();
    fake().revive();
    INFO(fake().last_complaint());
    CHECK(fake().complaints() == 0);
    CHECK(fake().objects() == objects_);
  }
  CleanFake(const CleanFake&) = delete;
  CleanFake& operator=(const CleanFake&) = delete;

  static tests::FakeCuda& fake() { return tests::FakeCuda::get(); }
  tests::FakeCuda* operator->() { return &fake(); }

  static Options options() { return {.library = tests::FakeCuda::path(), .devices = {}, .system_root = "/"}; }
  static std::vector<std::unique_ptr<Device>> devices() { return make_cuda_devices(options()).value(); }

 private:
  unsigned objects_ = 0;
};

inline bool says(const Error& error, const std::string& part) {
  INFO(error.sentence << " | " << error.vendor);
  const bool found = error.sentence.find(part) != std::string::npos || error.vendor.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

inline const std::string kGpu0 = "GPU-fa4ec0da-0000-0000-0000-000000000000";
inline const std::string kGpu1 = "GPU-fa4ec0da-0000-0000-0000-000000000001";

}  // namespace ckptd::device::cuda
