#include "daemon/collective/nccl/nccl_group.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "daemon/collective/group_state.h"
#include "daemon/collective/nccl/pool.h"

namespace ckptd::collective::nccl {
namespace {

/// Kept until the last member is gone.
struct Shared {
  Shared(const std::vector<std::string>& names, std::shared_ptr<Pool> from, std::shared_ptr<Communicators> lent)
      : state(names),
        pool(std::move(from)),
        communicators(std::move(lent)),
        before(communicators ? communicators->launched() : 0),
        parts(names.size()) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  ~Shared() {
    if (communicators && !failed) pool->give_back(std::move(communicators));
  }

  /// Ends the group, and with it the communicators; the error that it ended with.
  Error end(Error reason) noexcept {
    Error first = state.end(std::move(reason));
    failed = true;
    if (communicators) communicators->end(Communicators::End::cut, first);
    return first;
  }

  GroupState state;
  const std::shared_ptr<Pool> pool;
  std::shared_ptr<Communicators> communicators;  // null for a single member
  const std::uint64_t before;                    // broadcasts of earlier groups
  std::vector<Part> parts;                       // each written by its member before it meets the others
  std::atomic<bool> failed = false;
};

//  member:          part ──▶ meet ──▶ (the owner orders the launch) ──▶ wait until all parts are queued
//  NCCL's thread:                      group of ncclBroadcast on every stream, in place ──▶ told to all
class NcclMember final : public Member {
 public:
  NcclMember(std::uint32_t index, std::shared_ptr<Shared> shared)
      : index_(index), shared_(std::move(shared)), state_(shared_->state) {}
  NcclMember(const NcclMember&) = delete;
  NcclMember& operator=(const NcclMember&) = delete;

  ~NcclMember() override {
    // Not Shared::end(): what is queued goes on, and if nobody comes late the communicators serve the next group.
    state_.end({ErrorKind::peer_failed,
                fmt::format("{} left the group; its own error says why, and a new group can go on", name())});
  }

  std::uint32_t index() const override { return index_; }

  Result<> broadcast(device::Range slot, std::uint32_t from, device::Stream& stream, Deadline deadline) override {
    if (from >= state_.members())
      return broken({ErrorKind::invalid_argument,
                     fmt::format("a broadcast from member {}, but the group has {} members", from, state_.members())});
    void* native = shared_->pool->natives().stream(stream);
    if (native == nullptr)
      return broken(
          {ErrorKind::invalid_argument, "the stream of a broadcast is not one of a device that NCCL can use"});
    shared_->parts[index_] = {.stream = &stream, .native = native, .slot = slot};

    auto met = state_.meet(index_, {.step = Post::Step::broadcast, .from = from, .slot = slot}, deadline);
    if (!met) return std::unexpected(shared_->end(met.error()));
    if (!shared_->communicators || slot.bytes == 0) return {};

    auto& communicators = *shared_->communicators;
    if (from == index_) communicators.launch(from, shared_->parts);
    auto launched = communicators.wait_until_launched(shared_->before + ++broadcasts_, deadline);
    if (launched) return {};
    const Error first = shared_->end(std::move(launched).error());
    communicators.wait_until_quiet();  // the stream and the slot may be gone right after this call
    return std::unexpected(first);
  }

  Result<> agree(Result<> outcome, Deadline deadline) override {
    auto met = state_.meet(index_, {.step = Post::Step::agree, .from = 0, .slot = {}, .outcome = std::move(outcome)},
                           deadline);
    if (!met) return std::unexpected(shared_->end(met.error()));
    return {};
  }

  void abort(Error reason) noexcept override { shared_->end(std::move(reason)); }

 private:
  const std::string& name() const { return state_.name(index_); }

  std::unexpected<Error> broken(const Error& error) { return std::unexpected(shared_->end(error.within(name()))); }

  const std::uint32_t index_;
  const std::shared_ptr<Shared> shared_;
  GroupState& state_;
  std::uint64_t broadcasts_ = 0;  // that NCCL carried; all members count alike
};

}  // namespace

Groups::Groups(std::shared_ptr<const Library> library, Natives natives, Patience patience)
    : pool_(std::make_shared<Pool>(std::move(library), std::move(natives), patience)) {}

Groups::~Groups() {
  pool_->close(Deadline(Clock::time_point::max()));
  pool_->drain();
}

std::size_t Groups::drop_idle() noexcept {
  return pool_->drop_idle();
}

void Groups::close(Deadline by) noexcept {
  pool_->close(by);
}

std::size_t Groups::epochs() const {
  return pool_->epochs();
}

std::size_t Groups::idle() const {
  return pool_->idle();
}

Result<std::vector<std::unique_ptr<Member>>> Groups::make_group(const std::vector<device::Device*>& devices,
                                                                const std::vector<std::string>& names,
                                                                std::stop_token stop) {
  if (devices.empty() || devices.size() != names.size())
    return fail(ErrorKind::internal, "a group of {} devices with {} names; both must be equal and not 0",
                devices.size(), names.size());
  for (std::size_t i = 0; i < devices.size(); ++i)
    if (std::ranges::count(devices, devices[i]) != 1)
      return fail(ErrorKind::invalid_argument, "{} comes twice in a group: NCCL has one communicator for a device",
                  names[i]);
  std::shared_ptr<Communicators> communicators;
  if (devices.size() > 1) communicators = CKPTD_TRY(pool_->borrow(devices, names, std::move(stop)));
  auto shared = std::make_shared<Shared>(names, pool_, std::move(communicators));
  std::vector<std::unique_ptr<Member>> members;
  for (std::uint32_t i = 0; i < devices.size(); ++i) members.push_back(std::make_unique<NcclMember>(i, shared));
  return members;
}

}  // namespace ckptd::collective::nccl
