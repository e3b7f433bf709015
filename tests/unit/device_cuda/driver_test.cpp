// What is said when there is no driver, when it is none of ours, and when it does not start.
#include "daemon/device/cuda/driver.h"

#include "tests/unit/device_cuda/fake.h"

namespace ckptd::device::cuda {

TEST_CASE("a library that is not there is told by its name, with what to do") {
  auto refused = Driver::open("/nowhere/libcuda.so.1");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::unavailable);
  says(refused.error(), "/nowhere/libcuda.so.1");
  says(refused.error(), "[cuda] library");
  says(refused.error(), "No such file");
}

TEST_CASE("a library that is no driver names what it lacks") {
  auto refused = Driver::open(CKPTD_LIBCUDA_empty);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::unsupported);
  says(refused.error(), "cuInit");
  says(refused.error(), "525");

  auto old = Driver::open(CKPTD_LIBCUDA_old);
  REQUIRE_FALSE(old);
  CHECK(old.error().kind == ErrorKind::unsupported);
  says(old.error(), "cuDeviceGetUuid_v2");
  CHECK(old.error().sentence.find("cuInit,") == std::string::npos);
}

TEST_CASE("why a driver does not start becomes a sentence, and an exit code that lets the unit try again or not") {
  CleanFake fake;
  const auto fails = [&](unsigned code, ErrorKind kind, const char* part) {
    fake->fail("cuInit", 1, static_cast<int>(code), -1);
    auto refused = Driver::open(tests::FakeCuda::path());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == kind);
    says(refused.error(), part);
    says(refused.error(), "--device");
    says(refused.error(), "(" + std::to_string(code) + ")");
  };
  fails(CUDA_ERROR_NO_DEVICE, ErrorKind::unavailable, "nvidia-smi");
  fails(CUDA_ERROR_SYSTEM_NOT_READY, ErrorKind::unavailable, "nvidia-fabricmanager");
  fails(CUDA_ERROR_UNKNOWN, ErrorKind::unavailable, "nvidia-uvm");
  fails(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, ErrorKind::unsupported, "reboot");
  fails(CUDA_ERROR_STUB_LIBRARY, ErrorKind::unsupported, "stub");
  fails(CUDA_ERROR_NOT_PERMITTED, ErrorKind::denied, "/dev/nvidia");
  fails(CUDA_ERROR_INVALID_VALUE, ErrorKind::unavailable, "kernel log");
  CHECK(Driver::open(tests::FakeCuda::path()));
}

TEST_CASE("codes of the driver have one meaning each") {
  auto driver = Driver::open(tests::FakeCuda::path()).value();
  CHECK(driver->version() == 12020);
  const auto means = [&](unsigned code, ErrorKind kind, bool fences) {
    const auto meaning = driver->describe(static_cast<CUresult>(code));
    CAPTURE(code, meaning.vendor);
    CHECK(meaning.kind == kind);
    CHECK(meaning.fences == fences);
    CHECK(meaning.vendor.find("(" + std::to_string(code) + ")") != std::string::npos);
  };
  means(2, ErrorKind::no_space, false);
  means(1, ErrorKind::internal, false);
  means(400, ErrorKind::internal, false);
  means(712, ErrorKind::conflict, false);
  means(800, ErrorKind::denied, false);
  means(801, ErrorKind::unsupported, false);
  for (const unsigned code : {46u, 214u, 220u, 226u, 700u, 702u, 709u, 710u, 714u, 715u, 716u, 717u, 718u, 719u, 911u})
    means(code, ErrorKind::unavailable, true);
  means(2, ErrorKind::no_space, false);
  CHECK(driver->describe(static_cast<CUresult>(1010)).vendor.find("no name") != std::string::npos);
  const auto error = driver->error(CUDA_ERROR_OUT_OF_MEMORY, "GPU-1: allocate memory");
  CHECK(error.sentence == "GPU-1: allocate memory failed: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
}

}  // namespace ckptd::device::cuda
