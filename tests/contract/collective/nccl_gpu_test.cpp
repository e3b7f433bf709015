// NVIDIA's NCCL between the GPUs of this machine: the contract where there are four, which is what it asks for, and with
// two or three a broadcast from each to all. With one GPU that has both members of a group, which NCCL allows from 2.30 on
// where NCCL_MULTI_RANK_GPU_ENABLE=1 is in the environment (it is put there): no group of ckptd is like that, and it says of
// the calls what two GPUs would. Ends with 77 (skipped), and says why, where NCCL is older then, or there is none.
// CKPTD_TEST_NCCL names a library that the dynamic linker does not find.
#define CATCH_CONFIG_RUNNER
#include <array>
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

/// The one GPU of this machine as two devices, each with a context that it shares with the other.
class OneGpuTwice {
 public:
  device::Device& device(unsigned index) { return halves_[index % halves_.size()].device(); }
  static std::vector<std::byte> bytes_at(device::Range range) { return RealCudaBackend::bytes_at(range); }

 private:
  std::array<RealCudaBackend, 2> halves_;
};

template <class Gpus>
class OverNccl : public Gpus {
 public:
  OverNccl() { alive_.push_back(this); }
  OverNccl(const OverNccl&) = delete;
  OverNccl& operator=(const OverNccl&) = delete;
  ~OverNccl() {
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
  inline static std::vector<OverNccl*> alive_;
  std::unique_ptr<Groups> groups_;
};

using RealNccl = OverNccl<RealCudaBackend>;

unsigned gpus = 0;

bool enough_for_the_contract() {
  if (gpus >= 4) return true;
  WARN("skipped: the contract asks for four GPUs, there are " << gpus);
  return false;
}

template <class Backend>
void spread_from_each_to_all(unsigned members) {
  Party<Backend> party(&Backend::make_group, members);
  std::mt19937_64 random(seed_of_run());
  const Script script(members, 40, random);
  for (auto& lane : party.lanes) REQUIRE(lane.prepare(script));
  party.run([&](Lane& lane) { return lane.follow(script); });
  for (auto& lane : party.lanes) {
    REQUIRE(lane.outcome);
    CHECK(difference(lane.seen(script), script.results()) == "");
  }
}

}  // namespace

TEST_CASE("NCCL between the GPUs of this machine, or the members of one: from each to all") {
  if (gpus > 1)
    spread_from_each_to_all<RealNccl>(gpus);
  else
    spread_from_each_to_all<OverNccl<OneGpuTwice>>(2);
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
  constexpr int kTwoMembersOnOneGpu = collective::nccl::version_code(2, 30, 0);
  const auto skip = [](const Error& why) {
    std::cerr << "skipped: " << why.sentence << " (" << why.vendor << ")\n";
    return kSkipped;
  };
  auto devices = device::cuda::make_cuda_devices({});
  if (!devices) return skip(devices.error());
  tests::gpus = static_cast<unsigned>(devices->size());
  devices->clear();
  if (tests::gpus == 1) ::setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 1);  // before NCCL, which reads it once
  const auto library = collective::nccl::Library::open(tests::library_path());
  if (!library) return skip(library.error());
  const auto version = collective::nccl::show_version((*library)->version());
  if (tests::gpus == 1 && (*library)->version() < kTwoMembersOnOneGpu)
    return skip({ErrorKind::unsupported,
                 "two members of NCCL are untested: there is one GPU, and NCCL " + version + " puts two on one from " +
                     collective::nccl::show_version(kTwoMembersOnOneGpu) + " on (gpu-check --nccl names another)"});
  const int failed = Catch::Session().run(argc, argv);
  if (failed == 0 && tests::gpus == 1) std::cout << "two members on one GPU, by NCCL " << version << "\n";
  if (failed == 0 && tests::gpus > 1) std::cout << tests::gpus << " GPUs, by NCCL " << version << "\n";
  return failed;
}
