// A device that is lost: found wherever it shows first, told to everybody who sleeps, and its end never blocks.
#include <poll.h>

#include <thread>

#include "daemon/device/cuda/native.h"
#include "tests/unit/device_cuda/fake.h"

namespace ckptd::device::cuda {
namespace {

constexpr std::size_t kBytes = 100'000;

struct House {
  std::vector<std::byte> source = std::vector<std::byte>(kBytes);
  std::vector<std::unique_ptr<Device>> devices = CleanFake::devices();
  std::unique_ptr<HostRegistration> registration = devices[1]->register_host(source).value();
  std::unique_ptr<Allocation> memory = devices[0]->allocate(kBytes).value();
  std::unique_ptr<Stream> stream = devices[0]->make_stream().value();
  std::unique_ptr<Event> event = devices[0]->make_event().value();
};

bool woken(const Waker& waker) {
  pollfd entry{waker.fd(), POLLIN, 0};
  const bool in_time = ::poll(&entry, 1, 30'000) == 1;
  waker.drain();
  return in_time;
}

}  // namespace

TEST_CASE("an error that loses the context fences its device, whichever call shows it") {
  CleanFake fake;
  const auto call = GENERATE(as<std::string>{}, "cuMemGetInfo_v2", "cuMemAlloc_v2", "cuStreamCreate", "cuEventCreate",
                             "cuEventRecord", "cuMemcpyHtoDAsync_v2", "cuEventQuery", "cuStreamQuery", "cuIpcGetMemHandle",
                             "cuMemHostRegister_v2", "work_copy");
  const auto code = GENERATE(CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_ECC_UNCORRECTABLE);
  {
    House house;
    CHECK_FALSE(house.devices[0]->lost());
    fake->fail(call.c_str(), 1, code, 0);
    std::vector<std::byte> more(4096);
    const auto use_all = [&]() -> Result<> {
      CKPTD_TRY(house.devices[0]->free_bytes());
      CKPTD_TRY(house.devices[0]->allocate(4096));
      CKPTD_TRY(house.devices[0]->make_stream());
      CKPTD_TRY(house.devices[0]->make_event());
      CKPTD_TRY(house.devices[0]->register_host(more));
      CKPTD_TRY(house.memory->export_to_processes());
      CKPTD_TRY(house.stream->copy_from_host(house.memory->range(), house.source.data()));
      CKPTD_TRY(house.stream->record(*house.event));
      CKPTD_TRY(house.event->wait(Deadline::in(30s)));
      return house.stream->synchronize(Deadline::in(30s));
    };
    auto first = use_all();
    REQUIRE_FALSE(first);
    CHECK(first.error().kind == ErrorKind::unavailable);
    says(first.error(), kGpu0);
    says(first.error(), "restart");
    says(first.error(), std::to_string(static_cast<int>(code)));
    const auto lost = house.devices[0]->lost();
    REQUIRE(lost);
    CHECK(lost->error.sentence == first.error().sentence);
    CHECK_FALSE(lost->error.vendor.empty());
    CHECK(std::chrono::system_clock::now() - lost->since < 60s);
    CHECK_FALSE(house.devices[1]->lost());
    auto again = house.devices[0]->allocate(1);
    REQUIRE_FALSE(again);
    CHECK(again.error().sentence == first.error().sentence);
    CHECK(native_usable(*house.devices[0]).error().sentence == first.error().sentence);
    CHECK(house.devices[1]->allocate(4096));
    CHECK(house.devices[1]->make_stream());
  }
}

TEST_CASE("who sleeps for a device that is lost is woken, without calling anything") {
  CleanFake fake;
  auto waker = Waker::create().value(), later = Waker::create().value();
  House house;
  fake->pause(1);
  REQUIRE(house.stream->copy_from_host(house.memory->range(), house.source.data()));
  REQUIRE(house.stream->wake_when_done(waker));
  REQUIRE(house.stream->record(*house.event));
  CHECK_FALSE(house.event->reached());
  fake->fail("work_copy", 1, CUDA_ERROR_ECC_UNCORRECTABLE, 0);
  fake->pause(0);
  CHECK(woken(waker));
  CHECK(house.event->reached());
  CHECK_FALSE(house.event->reached_at());
  auto outcome = house.event->wait(Deadline::in(-1s));
  REQUIRE_FALSE(outcome);
  says(outcome.error(), "ECC");
  REQUIRE(house.stream->wake_when_done(later));
  CHECK(woken(later));
}

TEST_CASE("work that waited for a device that is lost has failed too, and its device goes on") {
  CleanFake fake;
  House house;
  {
    auto waker = Waker::create().value();
    auto other = house.devices[1]->make_stream().value(), fresh = house.devices[1]->make_stream().value();
    auto elsewhere = house.devices[1]->allocate(kBytes).value();
    auto after = house.devices[1]->make_event().value();
    fake->pause(1);
    REQUIRE(house.stream->copy_from_host(house.memory->range(), house.source.data()));
    REQUIRE(house.stream->record(*house.event));
    REQUIRE(other->wait(*house.event));
    REQUIRE(other->copy_from_host(elsewhere->range(), house.source.data()));
    REQUIRE(other->record(*after));
    REQUIRE(other->wake_when_done(waker));
    fake->fail("work_copy", 1, CUDA_ERROR_ILLEGAL_ADDRESS, 0);
    fake->pause(0);
    CHECK_FALSE(house.stream->synchronize(Deadline::in(30s)));
    CHECK(woken(waker));
    auto outcome = after->wait(Deadline::in(30s));
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().kind == ErrorKind::unavailable);
    says(outcome.error(), kGpu1 + " waited for");
    says(outcome.error(), kGpu0);
    CHECK_FALSE(other->synchronize(Deadline::in(30s)));

    REQUIRE(fresh->copy_from_host(elsewhere->range(), house.source.data()));
    CHECK(fresh->synchronize(Deadline::in(30s)));
  }
  CHECK(native_usable(*house.devices[1]));
}

TEST_CASE("the end of everything on a lost device takes no time and asks the driver nothing") {
  CleanFake fake;
  auto house = std::make_unique<House>();
  auto unfinished = Waker::create().value();
  fake->pause(1);
  REQUIRE(house->stream->copy_from_host(house->memory->range(), house->source.data()));
  REQUIRE(house->stream->wake_when_done(unfinished));
  CHECK_FALSE(check_native(*house->devices[0], CUDA_ERROR_LAUNCH_FAILED, "test"));
  const auto before = Clock::now();
  const unsigned destroyed = fake->calls("cuStreamDestroy_v2"), freed = fake->calls("cuMemFree_v2");
  house->stream.reset();
  house->memory.reset();
  CHECK(fake->calls("cuStreamDestroy_v2") == destroyed);
  CHECK(fake->calls("cuMemFree_v2") == freed);
  house.reset();
  CHECK(Clock::now() - before < 5s);
  CHECK(woken(unfinished));
  fake->forget_complaints();  // the copy was under way when its source went, as with a process that ends
  fake->fail("work_copy", 1, CUDA_ERROR_LAUNCH_FAILED, 0);
  fake->pause(0);
  for (int i = 0; i < 3000 && fake->objects() != 0; ++i) {
    fake->revive();
    std::this_thread::sleep_for(1ms);
  }
}

}  // namespace ckptd::device::cuda
