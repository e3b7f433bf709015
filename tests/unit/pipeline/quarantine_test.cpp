// Memory that a rank may still map: when it is held, used again and freed.
#include <catch2/catch.hpp>
#include <thread>

#include "daemon/device/host/host_device.h"
#include "daemon/pipeline/arena.h"
#include "tests/support/cuda_like_device.h"
#include "tests/support/fake_hold.h"

using namespace ckptd;
using namespace ckptd::pipeline;
using namespace std::chrono_literals;
using tests::CudaLikeDevice;
using tests::FakeHold;

namespace {

constexpr std::uint64_t kBytes = 8192;

struct House {
  explicit House(bool keep = true) : arenas(std::make_unique<Arenas>(keep)) {}

  std::shared_ptr<FakeHold> put_one_in(bool reusable = true, std::uint64_t bytes = kBytes) {
    auto hold = std::make_shared<FakeHold>("sglang-0", "HOST-0", 4711);
    auto loan = arenas->borrow(device, bytes, bytes);
    REQUIRE(loan);
    std::move(*loan).quarantine(hold, reusable);
    return hold;
  }

  bool empties() const {
    const auto deadline = Deadline::in(10s);
    while (!deadline.passed()) {
      if (arenas->usage(device).quarantined_bytes == 0) return true;
      std::this_thread::sleep_for(1ms);
    }
    return false;
  }

  template <class Condition>
  static bool soon(Condition condition) {
    const auto deadline = Deadline::in(10s);
    while (!condition() && !deadline.passed()) std::this_thread::sleep_for(1ms);
    return condition();
  }

  CudaLikeDevice device{device::host::make_host_device(0)};
  std::unique_ptr<Arenas> arenas;
};

}  // namespace

TEST_CASE("an arena in quarantine is neither freed nor used nor trimmed, and somebody is named for it") {
  House house;
  const auto hold = house.put_one_in();
  const auto usage = house.arenas->usage(house.device);
  CHECK(usage.lent_bytes == 0);
  CHECK(usage.kept_bytes == 0);
  CHECK(usage.quarantined_bytes == kBytes);
  const auto shown = house.arenas->quarantine(house.device);
  REQUIRE(shown.size() == 1);
  CHECK(shown[0].bytes == kBytes);
  CHECK(shown[0].holder.engine == "sglang-0");
  REQUIRE(shown[0].holder.processes.size() == 1);
  CHECK(shown[0].holder.processes[0].pid == 4711);
  CHECK(shown[0].why == hold->why());
  CHECK(house.arenas->trim() == 0);
  auto other = house.arenas->borrow(house.device, kBytes, kBytes);
  REQUIRE(other);
  CHECK(house.device.allocated == 2);
  CHECK(House::soon([&] { return hold->looks > 1; }));
  CHECK(house.device.freed == 0);
  CHECK(house.arenas->usage(house.device).quarantined_bytes == kBytes);
  hold->released = true;
  CHECK(house.empties());
}

TEST_CASE("an arena that leaves quarantine after a good update serves the next one") {
  House house;
  const auto hold = house.put_one_in();
  hold->released = true;
  REQUIRE(house.empties());
  REQUIRE(House::soon([&] { return house.arenas->usage(house.device).kept_bytes == kBytes; }));
  CHECK(house.device.freed == 0);
  CHECK(house.arenas->borrow(house.device, kBytes, kBytes));
  CHECK(house.device.allocated == 1);
}

TEST_CASE("an arena that leaves quarantine is freed after a bad update, and where none is kept") {
  const bool keep = GENERATE(true, false);
  House house(keep);
  const auto hold = house.put_one_in(!keep);
  hold->released = true;
  REQUIRE(house.empties());
  CHECK(House::soon([&] { return house.device.freed == 1; }));
  CHECK(house.arenas->usage(house.device).kept_bytes == 0);
}

TEST_CASE("several in quarantine leave one by one, as their ranks let go") {
  House house;
  std::vector<std::shared_ptr<FakeHold>> holds;
  for (int i = 0; i < 4; ++i) holds.push_back(house.put_one_in(false));
  for (int left = 3; left >= 0; --left) {
    holds[static_cast<std::size_t>(left)]->released = true;
    CHECK(House::soon(
        [&] { return house.arenas->usage(house.device).quarantined_bytes == static_cast<std::uint64_t>(left) * kBytes; }));
  }
  CHECK(House::soon([&] { return house.device.freed == 4; }));
  const auto later = house.put_one_in(false);  // the thread sleeps by now
  later->released = true;
  CHECK(house.empties());
}

TEST_CASE("what is in quarantine at the end is not freed") {
  House house;
  const auto held = house.put_one_in(), released = house.put_one_in();
  released->released = true;
  house.arenas.reset();
  CHECK(house.device.freed == 1);
}

TEST_CASE("who finds no memory is told what is in quarantine and whose end would help") {
  House house;
  const auto hold = house.put_one_in();
  auto refused = house.arenas->borrow(house.device, std::uint64_t{1} << 60, std::uint64_t{1} << 59);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(refused.error().sentence.find("in quarantine") != std::string::npos);
  CHECK(refused.error().sentence.find("pid 4711") != std::string::npos);
  CHECK(refused.error().sentence.find("sglang-0") != std::string::npos);
  hold->released = true;
  CHECK(house.empties());
}
