// The contract over a fake NCCL. interrupted_broadcast_contract is not for it: it looks into the copies of local
// groups.
#include <cstring>

#include "daemon/collective/nccl/nccl_group.h"
#include "tests/contract/collective_contract.h"
#include "tests/support/fake_nccl/device_streams.h"

namespace ckptd::tests {
namespace {

using collective::nccl::Groups;
using collective::nccl::Library;
using collective::nccl::Patience;

template <class Under>
class FakeNccl : public Under {
 public:
  FakeNccl() {
    fake_nccl_begin(&device_streams(), seed_of_run() + ++made_);
    alive_.push_back(this);
  }
  FakeNccl(const FakeNccl&) = delete;
  FakeNccl& operator=(const FakeNccl&) = delete;

  ~FakeNccl() {
    groups_.reset();  // before the devices
    alive_.pop_back();
    CHECK(std::string(fake_nccl_last_complaint()) == "");
    CHECK(fake_nccl_communicators() == 0);
    CHECK(standing_.given_up == 0);
  }

  static Result<std::vector<std::unique_ptr<collective::Member>>> make_group(
      const std::vector<device::Device*>& devices, const std::vector<std::string>& names) {
    auto& groups = alive_.back()->groups_;  // contracts make a party within a party
    if (!groups) {
      auto library = CKPTD_TRY(Library::open(CKPTD_FAKE_NCCL));
      groups = std::make_unique<Groups>(std::move(library), device_natives(standing_), Patience{});
    }
    return groups->make_group(devices, names);
  }

 private:
  inline static unsigned made_ = 0;
  inline static std::vector<FakeNccl*> alive_;
  inline static Standing standing_;
  std::unique_ptr<Groups> groups_;
};

using Host = FakeNccl<HostBackend>;
using Shuffling = FakeNccl<ShufflingBackend>;

}  // namespace

TEST_CASE("NCCL group of host devices: broadcast") {
  broadcast_contract<Host>(Host::make_group);
}
TEST_CASE("NCCL group of host devices: agree") {
  agree_contract<Host>(Host::make_group);
}
TEST_CASE("NCCL group of host devices: absence") {
  absence_contract<Host>(Host::make_group);
}
TEST_CASE("NCCL group of host devices: faults") {
  fault_contract<Host>(Host::make_group);
}

TEST_CASE("NCCL group of shuffling devices: broadcast") {
  broadcast_contract<Shuffling>(Shuffling::make_group);
}
TEST_CASE("NCCL group of shuffling devices: agree") {
  agree_contract<Shuffling>(Shuffling::make_group);
}
TEST_CASE("NCCL group of shuffling devices: absence") {
  absence_contract<Shuffling>(Shuffling::make_group);
}
TEST_CASE("NCCL group of shuffling devices: faults") {
  fault_contract<Shuffling>(Shuffling::make_group);
}

}  // namespace ckptd::tests
