// The contract over a fake NCCL between CUDA devices of a fake driver: two fakes that each tell what the real one would
// punish. Natives are those of the daemon.
#include "daemon/assembly_natives.h"
#include "daemon/collective/nccl/nccl_group.h"
#include "tests/contract/collective_contract.h"
#include "tests/contract/fake_cuda_backend.h"
#include "tests/support/fake_nccl/fake_nccl.h"

namespace ckptd::tests {
namespace {

using collective::nccl::Groups;
using collective::nccl::Library;
using collective::nccl::Patience;

class NcclOverCuda : public FakeCudaBackend {
 public:
  NcclOverCuda() {
    fake_nccl_begin(fake_nccl_cuda_streams(FakeCuda::path()), seed_of_run() + ++made_);
    alive_.push_back(this);
  }
  NcclOverCuda(const NcclOverCuda&) = delete;
  NcclOverCuda& operator=(const NcclOverCuda&) = delete;

  ~NcclOverCuda() {
    groups_.reset();  // before the devices
    alive_.pop_back();
    CHECK(std::string(fake_nccl_last_complaint()) == "");
    CHECK(fake_nccl_communicators() == 0);
  }

  static Result<std::vector<std::unique_ptr<collective::Member>>> make_group(
      const std::vector<device::Device*>& devices, const std::vector<std::string>& names) {
    auto& groups = alive_.back()->groups_;  // contracts make a party within a party
    if (!groups) {
      auto library = CKPTD_TRY(Library::open(CKPTD_FAKE_NCCL));
      groups = std::make_unique<Groups>(std::move(library), natives_of_cuda(), Patience{});
    }
    return groups->make_group(devices, names);
  }

 private:
  inline static unsigned made_ = 0;
  inline static std::vector<NcclOverCuda*> alive_;
  std::unique_ptr<Groups> groups_;
};

constexpr auto make_group = &NcclOverCuda::make_group;

}  // namespace

TEST_CASE("NCCL group of CUDA devices: broadcast") { broadcast_contract<NcclOverCuda>(make_group); }
TEST_CASE("NCCL group of CUDA devices: agree") { agree_contract<NcclOverCuda>(make_group); }
TEST_CASE("NCCL group of CUDA devices: absence") { absence_contract<NcclOverCuda>(make_group); }

TEST_CASE("NCCL takes no stream of another kind of device") {
  NcclOverCuda backend;
  auto members = make_group({&backend.device(0), &backend.device(1)}, {"one", "other"});
  REQUIRE(members);
  auto stream = device::host::make_host_device(0)->make_stream();
  REQUIRE(stream);
  const auto refused = (*members)[0]->broadcast({}, 0, **stream, long_enough());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::invalid_argument);
}

}  // namespace ckptd::tests
