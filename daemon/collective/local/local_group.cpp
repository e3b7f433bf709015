#include "daemon/collective/local/local_group.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "daemon/collective/group_state.h"

namespace ckptd::collective::local {
namespace {

/// The events of one member: its bytes are in its slot; its copy from the owner's slot is done.
struct Events {
  std::unique_ptr<device::Event> ready, read;
};

/// Kept until the last member is gone, because any member's stream may wait for any member's event.
struct Shared {
  Shared(const std::vector<std::string>& names, std::chrono::milliseconds grace) : state(names), readers_grace(grace) {}
  GroupState state;
  const std::chrono::milliseconds readers_grace;
  std::vector<Events> events;
};

//  owner's stream:     ... fill slot | record ready[owner]              | wait read[each reader] | what comes next
//  a reader's stream:  ...           | wait ready[owner] | copy | record read[reader]
//
// The owner records before the first meeting and readers queue between the two meetings, so that nobody uses an event
// while its owner records it. The owner waits for its readers also when the group ends on the way: it frees its arena
// next.
class LocalMember final : public Member {
 public:
  LocalMember(std::uint32_t index, std::shared_ptr<Shared> shared)
      : index_(index), shared_(std::move(shared)), state_(shared_->state) {}
  LocalMember(const LocalMember&) = delete;
  LocalMember& operator=(const LocalMember&) = delete;

  ~LocalMember() override {
    state_.end({ErrorKind::peer_failed,
                fmt::format("{} left the group; its own error says why, and a new group can go on", name())});
  }

  std::uint32_t index() const override { return index_; }

  Result<> broadcast(device::Range slot, std::uint32_t from, device::Stream& stream, Deadline deadline) override {
    if (from >= state_.members())
      return broken({ErrorKind::invalid_argument,
                     fmt::format("a broadcast from member {}, but the group has {} members", from, state_.members())});
    const bool owner = from == index_;
    if (owner)
      if (auto recorded = stream.record(*mine().ready); !recorded) return broken(recorded.error());

    const Post begin{.step = Post::Step::broadcast, .from = from, .slot = slot};
    const device::Range source = CKPTD_TRY(state_.meet(index_, begin, deadline));

    Result<> outcome;
    if (!owner) outcome = read(slot, source, from, stream, deadline);
    const Post end{.step = Post::Step::copies_queued, .from = from};
    if (outcome)
      if (auto met = state_.meet(index_, end, deadline); !met) outcome = std::unexpected(met.error());
    if (owner)
      if (auto ordered = wait_for_readers(stream, deadline); !ordered && outcome) outcome = broken(ordered.error());
    return outcome;
  }

  Result<> agree(Result<> outcome, Deadline deadline) override {
    CKPTD_TRY(state_.meet(index_, {.step = Post::Step::agree, .outcome = std::move(outcome)}, deadline));
    return {};
  }

  void abort(Error reason) noexcept override { state_.end(std::move(reason)); }

 private:
  const std::string& name() const { return state_.name(index_); }
  Events& mine() { return shared_->events[index_]; }

  std::unexpected<Error> broken(const Error& error) { return std::unexpected(state_.end(error.within(name()))); }

  Result<> read(device::Range slot, device::Range source, std::uint32_t from, device::Stream& stream,
                Deadline deadline) {
    CKPTD_TRY(state_.begin_reading(index_));
    auto queued = [&]() -> Result<> {
      CKPTD_TRY(stream.wait(*shared_->events[from].ready));
      CKPTD_TRY(stream.copy(slot, source));
      return stream.record(*mine().read);
    }();
    // A copy that was queued and could not be recorded must not outlive the owner's slot.
    if (!queued) (void)stream.synchronize(deadline);
    state_.finish_reading(index_, queued.has_value());
    if (!queued) return broken(queued.error());
    return {};
  }

  Result<> wait_for_readers(device::Stream& stream, Deadline deadline) {
    const Deadline patient(std::max(deadline.at(), Clock::now() + shared_->readers_grace));
    Result<> outcome;
    for (const std::uint32_t reader : state_.wait_for_readers(patient)) {
      device::Event& read = *shared_->events[reader].read;
      auto waits = stream.wait(read);
      if (waits) continue;
      (void)read.wait(patient);
      if (outcome) outcome = std::move(waits);
    }
    return outcome;
  }

  const std::uint32_t index_;
  const std::shared_ptr<Shared> shared_;
  GroupState& state_;
};

}  // namespace

Result<std::vector<std::unique_ptr<Member>>> make_group_with(std::chrono::milliseconds readers_grace,
                                                             const std::vector<device::Device*>& devices,
                                                             const std::vector<std::string>& names) {
  if (devices.empty() || devices.size() != names.size())
    return fail(ErrorKind::internal, "a group of {} devices with {} names; both must be equal and not 0",
                devices.size(), names.size());
  auto shared = std::make_shared<Shared>(names, readers_grace);
  for (device::Device* device : devices) {
    auto ready = CKPTD_TRY(device->make_event());
    auto read = CKPTD_TRY(device->make_event());
    shared->events.push_back({.ready = std::move(ready), .read = std::move(read)});
  }

  std::vector<std::unique_ptr<Member>> members;
  for (std::uint32_t i = 0; i < devices.size(); ++i) members.push_back(std::make_unique<LocalMember>(i, shared));
  return members;
}

Result<std::vector<std::unique_ptr<Member>>> make_group(const std::vector<device::Device*>& devices,
                                                        const std::vector<std::string>& names) {
  return make_group_with(kReadersGrace, devices, names);
}

}  // namespace ckptd::collective::local
