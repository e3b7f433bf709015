// NVIDIA's NCCL between the GPUs of this machine: the contract where there are four, which is what it asks for, and with
// two or three a broadcast from each to all. Ends with 77 (skipped), and says why, where there are fewer or no libnccl.
// CKPTD_TEST_NCCL names a library that the dynamic linker does not find.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <cstdlib>
#include <iostream>

#include "daemon/assembly_natives.h"
#include "daemon/collective/nccl/nccl_group.h"
#include "tests/contract/collective_contract.h"
#include "tests/contract/cuda_backend.h"

namespace ckptd::tests {
namespace {

using collective::nccl::Groups;
using collective::nccl::Library;
using collective::nccl::Patience;

std::string library_path() {
  const char* path = std::getenv("CKPTD_TEST_NCCL");
  return path != nullptr ? path : "";
}

class RealNccl : public RealCudaBackend {
 public:
  RealNccl() { alive_.push_back(this); }
  RealNccl(const RealNccl&) = delete;
  RealNccl& operator=(const RealNccl&) = delete;
  ~RealNccl() {
    groups_.reset();  // before the devices
    alive_.pop_back();
  }

  static Result<std::vector<std::unique_ptr<collective::Member>>> make_group(
      const std::vector<device::Device*>& devices, const std::vector<std::string>& names) {
    auto& groups = alive_.back()->groups_;  // contracts make a party within a party
    if (!groups) {
      auto library = CKPTD_TRY(Library::open(library_path()));
      groups = std::make_unique<Groups>(std::move(library), natives_of_cuda(), Patience{});
    }
    return groups->make_group(devices, names);
  }

 private:
  inline static std::vector<RealNccl*> alive_;
  std::unique_ptr<Groups> groups_;
};

unsigned gpus = 0;

bool enough_for_the_contract() {
  if (gpus >= 4) return true;
  WARN("skipped: the contract asks for four GPUs, there are " << gpus);
  return false;
}

}  // namespace

TEST_CASE("NCCL between the GPUs of this machine: from each to all") {
  Party<RealNccl> party(&RealNccl::make_group, gpus);
  std::mt19937_64 random(seed_of_run());
  const Script script(gpus, 40, random);
  for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));
  party.run([&](Lane& lane) { return lane.follow(script); });
  for (auto& lane : party.lanes) {
    REQUIRE(lane.outcome);
    CHECK(difference(lane.seen(script), script.results()) == "");
  }
}

TEST_CASE("NCCL between the GPUs of this machine: broadcast") {
  if (enough_for_the_contract()) broadcast_contract<RealNccl>(&RealNccl::make_group);
}
TEST_CASE("NCCL between the GPUs of this machine: agree") {
  if (enough_for_the_contract()) agree_contract<RealNccl>(&RealNccl::make_group);
}
TEST_CASE("NCCL between the GPUs of this machine: absence") {
  if (enough_for_the_contract()) absence_contract<RealNccl>(&RealNccl::make_group);
}

}  // namespace ckptd::tests

int main(int argc, char** argv) {
  using namespace ckptd;
  constexpr int kSkipped = 77;
  const auto skip = [](const Error& why) {
    std::cerr << "skipped: " << why.sentence << " (" << why.vendor << ")\n";
    return kSkipped;
  };
  if (const auto library = collective::nccl::Library::open(tests::library_path()); !library) return skip(library.error());
  auto devices = device::cuda::make_cuda_devices({});
  if (!devices) return skip(devices.error());
  tests::gpus = static_cast<unsigned>(devices->size());
  devices->clear();
  if (tests::gpus < 2) return skip({ErrorKind::unavailable, "NCCL spreads between two GPUs or more, there is one"});
  return Catch::Session().run(argc, argv);
}
