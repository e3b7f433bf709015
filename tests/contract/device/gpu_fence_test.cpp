// A GPU of this machine whose context is lost, by a kernel that traps: whoever sleeps is woken, every call answers with the
// first error, and nothing blocks to the end. A program of its own, since nothing of this process can use that GPU
// afterwards. Ends with 77 (skipped) where there is no GPU.
#define CATCH_CONFIG_RUNNER
#include <poll.h>

#include <catch2/catch.hpp>
#include <iostream>

#include "tests/contract/cuda_backend.h"
#include "tests/contract/device_contract.h"

namespace ckptd::tests {
namespace {

constexpr const char* kTrap = R"(
.version 7.0
.target sm_70
.address_size 64
.visible .entry lose_context() { trap; }
)";

void launch_trap(device::Device& device, device::Stream& stream) {
  const auto& cuda = OfThisMachine::library().opened;
  auto current = device::cuda::CurrentContext::of(device);
  REQUIRE(current);
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  REQUIRE(cuda.find<decltype(&cuModuleLoadData)>("cuModuleLoadData")(&module, kTrap) == CUDA_SUCCESS);
  REQUIRE(cuda.find<decltype(&cuModuleGetFunction)>("cuModuleGetFunction")(&function, module, "lose_context") ==
          CUDA_SUCCESS);
  REQUIRE(cuda.find<decltype(&cuLaunchKernel)>("cuLaunchKernel")(function, 1, 1, 1, 1, 1, 1, 0,
                                                                device::cuda::native_stream(stream), nullptr,
                                                                nullptr) == CUDA_SUCCESS);
}

}  // namespace

TEST_CASE("a GPU that is lost wakes who sleeps, answers with its first error and never blocks") {
  auto backend = std::make_unique<RealCudaBackend>();
  auto& device = backend->device();
  std::mt19937_64 random(seed_of_run());
  const auto before = Clock::now();
  {
    const RegisteredBytes source(10'000, device, random);
    auto memory = must(device.allocate(10'000));
    auto stream = must(device.make_stream()), idle = must(device.make_stream());
    auto event = must(device.make_event());
    auto waker = must(Waker::create());
    must(stream->copy_from_host(memory->range(), source.data()));
    launch_trap(device, *stream);
    static_cast<void>(stream->record(*event));  // may be told of the failure already
    must(stream->wake_when_done(waker));
    pollfd entry{waker.fd(), POLLIN, 0};
    CHECK(::poll(&entry, 1, 60'000) == 1);
    const auto first = stream->synchronize(patience());
    REQUIRE_FALSE(first);
    WARN(first.error().sentence);
    CHECK(first.error().kind == ErrorKind::unavailable);
    CHECK(event->reached());
    for (const auto& outcome : {event->wait(patience()), idle->synchronize(patience()),
                                idle->copy_from_host(memory->range(), source.data())}) {
      REQUIRE_FALSE(outcome);
      CHECK(outcome.error().sentence == first.error().sentence);
    }
    CHECK_FALSE(device.allocate(1));
    CHECK_FALSE(device.make_stream());
  }
  backend.reset();
  CHECK(Clock::now() - before < 60s);
}

}  // namespace ckptd::tests

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  auto devices = ckptd::device::cuda::make_cuda_devices({});
  if (!devices) {
    std::cerr << "skipped: " << devices.error().sentence << " (" << devices.error().vendor << ")\n";
    return kSkipped;
  }
  devices->clear();
  return Catch::Session().run(argc, argv);
}
