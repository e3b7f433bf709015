#include "daemon/collective/group_state.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace ckptd::collective {
namespace {

std::string describe(const Post& post, const std::string& from) {
  switch (post.step) {
    case Post::Step::agree: return "agree";
    case Post::Step::broadcast: return fmt::format("broadcast {} bytes from {}", post.slot.bytes, from);
    case Post::Step::copies_queued: break;
  }
  return fmt::format("queue the copies of a broadcast from {}", from);
}

bool same_call(const Post& one, const Post& other) {
  return one.step == other.step && one.from == other.from && one.slot.bytes == other.slot.bytes;
}

}  // namespace

GroupState::GroupState(const std::vector<std::string>& names) {
  for (const auto& name : names) seats_.push_back({.name = name});
}

Result<device::Range> GroupState::meet(std::uint32_t member, Post post, Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (ended_) return std::unexpected(*ended_);
  seats_[member].post = std::move(post);
  seats_[member].here = true;
  const std::uint64_t meeting = meetings_;
  if (std::ranges::all_of(seats_, &Seat::here)) {
    decide();
    return answer_;
  }
  changed_.wait_until(lock, deadline.at(), [&] { return meetings_ != meeting || ended_; });
  // The next meeting cannot be decided without this member, so answer_ is still the one of this meeting.
  if (meetings_ != meeting) return answer_;
  if (!ended_) {
    ended_ = late(member);
    changed_.notify_all();
  }
  return std::unexpected(*ended_);
}

Error GroupState::end(Error reason) noexcept {
  std::lock_guard lock(mutex_);
  if (!ended_) ended_ = std::move(reason);
  changed_.notify_all();
  return *ended_;
}

Result<> GroupState::begin_reading(std::uint32_t member) {
  std::lock_guard lock(mutex_);
  if (ended_) return std::unexpected(*ended_);
  seats_[member].reading = true;
  return {};
}

void GroupState::finish_reading(std::uint32_t member, bool recorded) {
  {
    std::lock_guard lock(mutex_);
    seats_[member].reading = false;
    seats_[member].read = recorded;
  }
  changed_.notify_all();
}

std::vector<std::uint32_t> GroupState::wait_for_readers(Deadline deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline.at(), [&] { return std::ranges::none_of(seats_, &Seat::reading); });
  std::vector<std::uint32_t> readers;
  for (std::uint32_t i = 0; i < members(); ++i)
    if (seats_[i].read) readers.push_back(i);
  return readers;
}

void GroupState::decide() {
  answer_ = answer();
  if (!answer_ && !ended_) ended_ = answer_.error();
  const bool new_broadcast = seats_.front().post.step == Post::Step::broadcast;
  for (Seat& seat : seats_) {
    seat.here = false;
    if (new_broadcast) seat.read = false;
  }
  ++meetings_;
  changed_.notify_all();
}

Result<device::Range> GroupState::answer() const {
  if (auto error = contradiction()) return std::unexpected(std::move(*error));
  if (seats_.front().post.step == Post::Step::agree) CKPTD_TRY(agreement());
  return seats_[seats_.front().post.from].post.slot;
}

std::optional<Error> GroupState::contradiction() const {
  const Seat& first = seats_.front();
  const auto odd = std::ranges::find_if(seats_, [&](const Seat& seat) { return !same_call(seat.post, first.post); });
  if (odd == seats_.end()) return {};
  return Error{ErrorKind::internal,
               fmt::format("the members of a group must make the same calls: {} wants to {}, {} to {}", first.name,
                           describe(first.post, name(first.post.from)), odd->name,
                           describe(odd->post, name(odd->post.from)))};
}

Result<> GroupState::agreement() const {
  for (const Seat& seat : seats_)
    if (!seat.post.outcome) return seat.post.outcome;
  return {};
}

/// Names who is missing, and what those who came brought, because that may be why the others did not.
Error GroupState::late(std::uint32_t waiter) const {
  std::string missing, brought;
  for (const Seat& seat : seats_) {
    if (!seat.here) missing += (missing.empty() ? "" : ", ") + seat.name;
    if (seat.here && !seat.post.outcome)
      brought += fmt::format("; {} brought: {}", seat.name, seat.post.outcome.error().sentence);
  }
  const Post& post = seats_[waiter].post;
  return Error{ErrorKind::timed_out,
               fmt::format("{} waited to {} until its deadline, but {} did not come; see what held it up there{}",
                           seats_[waiter].name, describe(post, name(post.from)), missing, brought)}
      .with_fact("missing", missing);
}

}  // namespace ckptd::collective
