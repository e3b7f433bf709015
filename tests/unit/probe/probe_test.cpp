#include "daemon/probe/probe.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <memory>
#include <vector>

#include "common/units.h"
#include "daemon/device/host/host_device.h"
#include "tests/support/checkpoint_files/folder.h"

using namespace ckptd;
using namespace ckptd::probe;
using namespace std::chrono_literals;

namespace {

const MayGoOn kGoOn = [] { return Result<>(); };

/// A machine with so much free.
void pretend_free(const tests::Folder& root, std::uint64_t bytes) {
  std::filesystem::create_directories(root / "proc");
  std::ofstream(root / "proc/meminfo") << "MemTotal: 99999999 kB\nMemAvailable: " << bytes / kKiB << " kB\n";
}

}  // namespace

TEST_CASE("copies and hashing have rates") {
  auto device = device::host::make_host_device(0);
  const Limits limits{.bytes = 8 * kMiB, .working = 5ms};
  auto memory = HostMemory::make(limits);
  REQUIRE(memory);
  CHECK((*memory)->bytes().size() == 8 * kMiB);
  auto copies = measure_copies(*device, (*memory)->bytes(), limits, kGoOn);
  REQUIRE(copies);
  CHECK(copies->bytes_per_second > 0);
  CHECK(copies->bytes == 8 * kMiB);
  auto other = device::host::make_host_device(1), third = device::host::make_host_device(2);
  const std::array peers{other.get(), third.get()};
  auto spread = measure_spread(*device, peers, limits, kGoOn);
  REQUIRE(spread);
  CHECK(spread->bytes_per_second > 0);
  CHECK(spread->bytes == 8 * kMiB);
  auto alone = measure_spread(*device, {}, limits, kGoOn);
  REQUIRE_FALSE(alone);
  CHECK(alone.error().kind == ErrorKind::invalid_argument);
  auto hash = measure_hash((*memory)->bytes(), limits, kGoOn);
  REQUIRE(hash);
  CHECK(hash->bytes_per_second > 0);
}

TEST_CASE("a probe takes at most an eighth of what is free, and refuses when that is too little") {
  tests::Folder root;
  pretend_free(root, 256 * kMiB);
  auto memory = HostMemory::make({.bytes = 256 * kMiB, .system_root = root.path()});
  REQUIRE(memory);
  CHECK((*memory)->bytes().size() == 32 * kMiB);
  pretend_free(root, 16 * kMiB);
  auto refused = HostMemory::make({.bytes = 256 * kMiB, .system_root = root.path()});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);

  auto device = device::host::make_host_device(0, root.path());  // with 16 MiB free
  auto copies = measure_copies(*device, (*memory)->bytes(), {.working = 1ms}, kGoOn);
  REQUIRE_FALSE(copies);
  CHECK(copies.error().kind == ErrorKind::no_space);
  CHECK(copies.error().sentence.find("HOST-0") != std::string::npos);

  auto roomy = device::host::make_host_device(1);
  const std::array peers{device.get()};
  auto spread = measure_spread(*roomy, peers, {.bytes = 32 * kMiB, .working = 1ms}, kGoOn);
  REQUIRE_FALSE(spread);
  CHECK(spread.error().kind == ErrorKind::no_space);
  CHECK(spread.error().sentence.find("HOST-0") != std::string::npos);
}

TEST_CASE("of many peers so many are tried, and each has two rounds at least") {
  std::vector<std::unique_ptr<device::Device>> devices;
  std::vector<device::Device*> peers;
  for (int i = 1; i < 11; ++i) peers.push_back(devices.emplace_back(device::host::make_host_device(i)).get());
  auto to = device::host::make_host_device(0);
  std::size_t asked = 0;
  const MayGoOn count = [&] { return ++asked, Result<>(); };
  REQUIRE(measure_spread(*to, peers, {.bytes = 4 * kMiB, .working = 0ms}, count));
  CHECK(asked == 2 * kMostPeers);
}

TEST_CASE("a measurement ends between two rounds when it may not go on") {
  auto device = device::host::make_host_device(0);
  const Limits limits{.bytes = 4 * kMiB, .working = 60'000ms};
  auto memory = HostMemory::make(limits);
  REQUIRE(memory);
  int asked = 0;
  const MayGoOn twice = [&]() -> Result<> {
    if (++asked > 2) return fail(ErrorKind::busy, "update-7 began");
    return {};
  };
  auto copies = measure_copies(*device, (*memory)->bytes(), limits, twice);
  REQUIRE_FALSE(copies);
  CHECK(copies.error().kind == ErrorKind::busy);
  CHECK(asked == 3);
  asked = 0;
  auto other = device::host::make_host_device(1);
  const std::array peers{other.get()};
  CHECK_FALSE(measure_spread(*device, peers, limits, twice));
  CHECK(asked == 3);
  asked = 0;
  CHECK_FALSE(measure_hash((*memory)->bytes(), limits, twice));
}

TEST_CASE("everything is given back") {
  const auto memfds = [] {
    return std::ranges::count_if(std::filesystem::directory_iterator("/proc/self/fd"), [](const auto& entry) {
      std::error_code error;
      return std::filesystem::read_symlink(entry.path(), error).string().starts_with("/memfd:ckptd");
    });
  };
  const auto before = memfds();
  {
    auto device = device::host::make_host_device(0);
    const Limits limits{.bytes = 4 * kMiB, .working = 1ms};
    auto memory = HostMemory::make(limits);
    REQUIRE(memory);
    CHECK(memfds() == before + 1);
    REQUIRE(measure_copies(*device, (*memory)->bytes(), limits, kGoOn));
    CHECK(memfds() == before + 1);
    auto other = device::host::make_host_device(1);
    const std::array peers{other.get()};
    REQUIRE(measure_spread(*device, peers, limits, kGoOn));
    CHECK(memfds() == before + 1);
  }
  CHECK(memfds() == before);
}
