// What CUDA devices promise beyond the contract: names, places, memory that runs out, handles, and starts that fail half
// way.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/units.h"
#include "daemon/device/cuda/enumerate.h"
#include "daemon/device/cuda/native.h"
#include "tests/unit/device_cuda/fake.h"

namespace ckptd::device::cuda {

TEST_CASE("GPUs are named by their UUID, and lie where the kernel says") {
  CleanFake fake;
  std::string root = "/tmp/ckptd-root-XXXXXX";
  REQUIRE(::mkdtemp(root.data()) != nullptr);
  const auto folder = std::filesystem::path(root) / "sys/bus/pci/devices/0000:1b:00.0";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "numa_node") << "3\n";
  {
    auto options = CleanFake::options();
    options.system_root = root;
    auto devices = make_cuda_devices(options).value();
    REQUIRE(devices.size() == 4);
    CHECK(devices[0]->identity().kind == "cuda");
    CHECK(devices[0]->identity().uuid == kGpu0);
    CHECK(devices[0]->identity().numa_node == -1);
    CHECK(devices[1]->identity().uuid == kGpu1);
    CHECK(devices[1]->identity().numa_node == 3);
    CHECK(devices[3]->identity().uuid == "MIG-fa4ec0da-ab00-0000-0000-000000000003");
  }
  std::filesystem::remove_all(root);
}

TEST_CASE("a UUID is 8-4-4-4-12 lower-case digits") {
  CUuuid uuid{};
  for (int i = 0; i < 16; ++i) uuid.bytes[i] = static_cast<char>(0xf0 + i);
  CHECK(show_uuid("GPU", uuid) == "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
}

TEST_CASE("devices can be chosen, in the order of the choice") {
  CleanFake fake;
  auto options = CleanFake::options();
  options.devices = {kGpu1, "gpu-FA4EC0DA-0000-0000-0000-000000000000"};
  {
    auto devices = make_cuda_devices(options).value();
    REQUIRE(devices.size() == 2);
    CHECK(devices[0]->identity().uuid == kGpu1);
    CHECK(devices[1]->identity().uuid == kGpu0);
    CHECK(native_ordinal(*devices[0]) == 1);
  }
  options.devices = {kGpu0, "GPU-12345678-0000-0000-0000-000000000000"};
  auto missing = make_cuda_devices(options);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().kind == ErrorKind::invalid_argument);
  says(missing.error(), "GPU-12345678");
  says(missing.error(), kGpu1);
  options.devices = {kGpu0, kGpu0};
  auto twice = make_cuda_devices(options);
  REQUIRE_FALSE(twice);
  CHECK(twice.error().kind == ErrorKind::invalid_argument);
  says(twice.error(), "twice");
}

TEST_CASE("a start that fails half way gives everything back and says where") {
  CleanFake fake;
  const auto call = GENERATE(as<std::string>{}, "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetUuid_v2",
                             "cuDevicePrimaryCtxRetain", "cuEventCreate");
  const unsigned objects = fake->objects();
  fake->fail(call.c_str(), call == "cuDeviceGetCount" ? 1 : 3, CUDA_ERROR_OUT_OF_MEMORY, -1);
  auto refused = make_cuda_devices(CleanFake::options());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(fake->objects() == objects);
  if (call == "cuDevicePrimaryCtxRetain") says(refused.error(), "GPU-fa4ec0da-0000-0000-0000-000000000002");
}

TEST_CASE("GPUs without a way to each other are no reason not to start") {
  CleanFake fake;
  fake->fail("cuDeviceCanAccessPeer", 0, CUDA_ERROR_INVALID_DEVICE, -1);
  CHECK(make_cuda_devices(CleanFake::options()));
  fake->fail_nothing();
  fake->fail("cuCtxEnablePeerAccess", 0, CUDA_ERROR_TOO_MANY_PEERS, -1);
  CHECK(make_cuda_devices(CleanFake::options()));
}

TEST_CASE("memory that runs out is no_space with both numbers, and less can be had") {
  CleanFake fake;
  auto devices = CleanFake::devices();
  fake->set_memory(1, 10 * kMiB);
  {
    CHECK(devices[1]->free_bytes().value() == 10 * kMiB);
    auto most = devices[1]->allocate(7 * kMiB).value();
    CHECK(devices[1]->free_bytes().value() == 2 * kMiB);
    auto refused = devices[1]->allocate(3 * kMiB);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::no_space);
    says(refused.error(), kGpu1);
    says(refused.error(), std::to_string(3 * kMiB));
    says(refused.error(), std::to_string(2 * kMiB));
    CHECK(refused.error().facts.size() == 2);
    CHECK(devices[1]->allocate(2 * kMiB));
    CHECK(devices[0]->allocate(3 * kMiB));
  }
  fake->set_memory(1, 1 << 30);
}

TEST_CASE("a handle of this process opens as the same memory, and only as long as that lives") {
  CleanFake fake;
  auto devices = CleanFake::devices();
  auto memory = devices[0]->allocate(5000).value();
  const auto exported = memory->export_to_processes().value();
  CHECK(std::get<CudaExport>(memory->export_to_processes().value()).handle == std::get<CudaExport>(exported).handle);
  {
    auto opened = devices[1]->open(exported).value();
    CHECK(opened->range().address == memory->range().address);
    CHECK(fake->calls("cuIpcOpenMemHandle_v2") == 0);
  }
  memory.reset();
  auto gone = devices[1]->open(exported);
  REQUIRE_FALSE(gone);
  CHECK(gone.error().kind == ErrorKind::invalid_argument);
  says(gone.error(), "owner");
  CHECK_FALSE(devices[0]->open(CudaExport{}));
  CHECK(devices[0]->open(HostExport{"/proc/self/fd/0", 1}).error().kind == ErrorKind::unsupported);
}

TEST_CASE("copies to memory that is nobody's are refused when they are queued, and lose nothing") {
  CleanFake fake;
  auto devices = CleanFake::devices();
  auto memory = devices[0]->allocate(4096).value();
  auto stream = devices[0]->make_stream().value();
  static const std::byte source[8192]{};
  auto wild = stream->copy_from_host({64, 8}, source);
  REQUIRE_FALSE(wild);
  CHECK(wild.error().kind == ErrorKind::internal);
  CHECK_FALSE(stream->copy(memory->range(), {64, 4096}));
  CHECK(fake->complaints() == 2);
  fake->forget_complaints();
  CHECK(stream->copy_from_host(memory->range(), source));
  CHECK(stream->synchronize(Deadline::in(60s)));
}

TEST_CASE("what lies behind the objects is there for other libraries") {
  CleanFake fake;
  auto devices = CleanFake::devices();
  auto stream = devices[1]->make_stream().value();
  CHECK(native_stream(*stream) != nullptr);
  CHECK(native_context(*devices[0]) != native_context(*devices[1]));
  CHECK(native_ordinal(*devices[1]) == 1);
  CHECK(native_usable(*devices[1]));
  {
    auto one = CurrentContext::of(*devices[0]).value();
    auto two = CurrentContext::of(*devices[1]).value();
  }
  CHECK(check_native(*devices[1], CUDA_SUCCESS, "all-reduce"));
  auto failed = check_native(*devices[1], CUDA_ERROR_INVALID_VALUE, "all-reduce");
  REQUIRE_FALSE(failed);
  says(failed.error(), "all-reduce");
  CHECK(native_usable(*devices[1]));
  CHECK_FALSE(check_native(*devices[1], CUDA_ERROR_ILLEGAL_ADDRESS, "all-reduce"));
  auto fenced = native_usable(*devices[1]);
  REQUIRE_FALSE(fenced);
  says(fenced.error(), "all-reduce");
  CHECK(native_usable(*devices[0]));
  CHECK_FALSE(CurrentContext::of(*devices[1]));
  stream.reset();
  devices.clear();
  // Only we think that it is lost: the fake still has what a fenced device leaves behind.
  auto driver = Driver::open(tests::FakeCuda::path()).value();
  fake->fail("cuMemGetInfo_v2", 1, CUDA_ERROR_ILLEGAL_ADDRESS, 1);
  CUcontext context = nullptr;
  driver->functions().primary_ctx_retain(&context, 1);
  driver->functions().ctx_push_current(context);
  std::size_t free_bytes = 0, total_bytes = 0;
  driver->functions().mem_get_info(&free_bytes, &total_bytes);
  driver->functions().ctx_pop_current(&context);
}

}  // namespace ckptd::device::cuda
