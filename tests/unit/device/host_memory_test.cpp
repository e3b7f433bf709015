// What host devices promise beyond the contract of devices: their names, their view of /proc, what they refuse to map.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "daemon/device/host/host_device.h"

namespace ckptd::device::host {
namespace {

using namespace std::chrono_literals;

/// A root whose proc/meminfo holds `meminfo`.
class Root {
 public:
  explicit Root(const std::string& meminfo) {
    std::string name = "/tmp/ckptd-root-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
    std::filesystem::create_directory(path_ / "proc");
    std::ofstream(path_ / "proc/meminfo") << meminfo;
  }
  ~Root() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

UniqueFd memfd(std::uint64_t bytes, int seals) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(fd);
  REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  if (seals != 0) REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, seals) == 0);
  return fd;
}

std::string path_of(const UniqueFd& fd) { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd.get()); }

}  // namespace

TEST_CASE("a host device is known as HOST-<index>") {
  CHECK(make_host_device(0)->identity().uuid == "HOST-0");
  CHECK(make_host_device(12)->identity().uuid == "HOST-12");
  CHECK(make_host_device(0)->identity().kind == "host");
}

TEST_CASE("free memory is MemAvailable below the system root") {
  Root root("MemTotal:        9000 kB\nMemFree:         100 kB\nMemAvailable:      64 kB\nBuffers: 5 kB\n");
  auto device = make_host_device(3, root.path());
  CHECK(device->free_bytes().value() == 64 * 1024);

  SECTION("the last byte can be had") { CHECK(device->allocate(64 * 1024)); }
  SECTION("one more cannot, and the error has the numbers and the name") {
    auto refused = device->allocate(64 * 1024 + 1);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == ErrorKind::no_space);
    CHECK(contains(refused.error().sentence, "HOST-3"));
    CHECK(contains(refused.error().sentence, "65537"));
    CHECK(contains(refused.error().sentence, "65536"));
    CHECK(refused.error().facts.size() == 2);
    CHECK(device->allocate(4096));
  }
}

TEST_CASE("a meminfo that does not tell is an error that names the file") {
  const auto text = GENERATE(as<std::string>{}, "", "MemFree: 10 kB\n", "MemAvailable:", "MemAvailable: kB\n",
                             "MemAvailable: -5 kB\n", "MemAvailable: 99999999999999999999999 kB\n",
                             "MemTotal: 9 kB\nMemAvailable: 5 MB\n", "MemTotal: 9 kB\nMemAvailable: 5",
                             "MemAvailable: 5 kB\n");
  Root root(text);
  auto device = make_host_device(0, root.path());
  auto free_bytes = device->free_bytes();
  REQUIRE_FALSE(free_bytes);
  CHECK(contains(free_bytes.error().sentence, (root.path() / "proc/meminfo").string()));
  CHECK_FALSE(device->allocate(1));
}

TEST_CASE("a control group that has less left than the machine bounds what is free") {
  Root root("MemTotal:        9000 kB\nMemAvailable:      640 kB\n");
  const auto group = root.path() / "sys/fs/cgroup/pod";
  std::filesystem::create_directories(group);
  std::filesystem::create_directories(root.path() / "proc/self");
  std::ofstream(root.path() / "proc/self/cgroup") << "0::/pod\n";
  std::ofstream(group / "memory.max") << 100 * 4096;
  std::ofstream(group / "memory.current") << 90 * 4096;
  auto device = make_host_device(0, root.path());
  CHECK(device->free_bytes().value() == 10 * 4096);
  auto refused = device->allocate(11 * 4096);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(device->allocate(10 * 4096));
}

TEST_CASE("no meminfo is an error") {
  Root root("");
  std::filesystem::remove(root.path() / "proc/meminfo");
  CHECK_FALSE(make_host_device(0, root.path())->free_bytes());
}

TEST_CASE("pages are there when the allocation is") {
  auto memory = make_host_device(0)->allocate(1 << 20).value();
  const auto exported = std::get<HostExport>(memory->export_to_processes().value());
  CHECK(exported.bytes == 1 << 20);
  CHECK(contains(exported.path, "/proc/" + std::to_string(::getpid()) + "/fd/"));
  struct stat status {};
  REQUIRE(::stat(exported.path.c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 >= 1 << 20);
}

TEST_CASE("only sealed memory of the exported size is mapped") {
  auto device = make_host_device(0);
  const auto refused = [&](const HostExport& exported) {
    auto opened = device->open(exported);
    REQUIRE_FALSE(opened);
    CHECK(contains(opened.error().sentence, exported.path));
  };
  auto sealed = memfd(8192, F_SEAL_SHRINK);
  CHECK(device->open(HostExport{path_of(sealed), 8192}));
  refused({path_of(sealed), 8193});
  refused({path_of(sealed), 4096});
  refused({path_of(sealed), 0});
  refused({path_of(memfd(0, F_SEAL_SHRINK)), 0});
  auto unsealed = memfd(8192, 0), no_growth_only = memfd(8192, F_SEAL_GROW);
  refused({path_of(unsealed), 8192});
  refused({path_of(no_growth_only), 8192});
  refused({"/proc/self/fd/99999", 8192});
  refused({"/dev/zero", 8192});
  refused({"/tmp", 8192});
  refused({"/proc/self/exe", 8192});
  CHECK(device->open(CudaExport{}).error().kind == ErrorKind::unsupported);
}

TEST_CASE("a copy that leaves its allocation is an error, not a crash") {
  auto device = make_host_device(0);
  auto memory = device->allocate(10'000).value();
  const Range range = memory->range();
  std::vector<std::byte> host(30'000);
  const auto outcome = [&](auto queue) {
    auto stream = device->make_stream().value();
    queue(*stream).value();
    return stream->synchronize(Deadline::in(60s));
  };
  const auto upload_to = [&](Range to) {
    return outcome([&](Stream& s) { return s.copy_from_host(to, host.data()); });
  };
  CHECK(upload_to(range));
  CHECK_FALSE(upload_to({range.address, 10'001}));
  CHECK_FALSE(upload_to({range.address + 1, 10'000}));
  CHECK_FALSE(upload_to({range.address - 1, 2}));
  CHECK_FALSE(upload_to({range.address + 10'000, 1}));
  CHECK_FALSE(upload_to({range.address, ~std::uint64_t{0}}));
  CHECK_FALSE(upload_to({0, 1}));
  CHECK_FALSE(outcome([&](Stream& s) { return s.copy(range.part(0, 10), {range.address + 9'995, 10}); }));
  CHECK_FALSE(outcome([&](Stream& s) { return s.copy({range.address + 9'995, 10}, range.part(0, 10)); }));
  memory.reset();
  CHECK_FALSE(upload_to(range.part(0, 1)));
}

TEST_CASE("memory may be used and freed while its pages are still being entered into the page table") {
  auto device = make_host_device(0);
  const std::vector<std::byte> bytes(1 << 20, std::byte{7});
  for (int round = 0; round < 20; ++round) {
    auto memory = device->allocate(48 << 20);
    REQUIRE(memory);
    auto stream = *device->make_stream();
    const auto at = (*memory)->range().part(static_cast<std::uint64_t>(round) << 21, bytes.size());
    REQUIRE(stream->copy_from_host(at, bytes.data()));
    REQUIRE(stream->synchronize(Deadline::in(60s)));
    CHECK(*reinterpret_cast<const std::byte*>(at.address + bytes.size() - 1) == std::byte{7});
  }
}

}  // namespace ckptd::device::host
