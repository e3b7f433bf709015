// What the members of one group share when all of them are threads of this process, whatever carries the bytes: who is
// there, what they agreed on, and the first error.
//
// No device is touched here, and nothing blocks except meet() and wait_for_readers(), until their deadlines. Members
// meet: each posts what it calls, the last to come decides, all leave with the same answer. An answer stands once it is
// decided; what ends the group later only reaches later calls. Safe from any thread; one call of each member at a time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::collective {

/// What a member brings to a meeting.
struct Post {
  enum class Step { agree, broadcast, copies_queued };
  Step step = Step::agree;
  std::uint32_t from = 0;   ///< broadcast: the owner of the bytes
  device::Range slot = {};  ///< broadcast: this member's
  Result<> outcome = {};    ///< agree
};

class GroupState {
 public:
  explicit GroupState(const std::vector<std::string>& names);

  std::uint32_t members() const { return static_cast<std::uint32_t>(seats_.size()); }
  const std::string& name(std::uint32_t member) const { return seats_[member].name; }

  /// The owner's slot for a broadcast. The group ends when the posts contradict each other, when the deadline passes,
  /// and when the outcome agreed on is an error.
  Result<device::Range> meet(std::uint32_t member, Post post, Deadline deadline);

  /// Ends the group unless it has ended; the error that it ended with.
  Error end(Error reason) noexcept;

  /// Between these two a member's copy from the owner's slot is being queued. The first refuses once the group has
  /// ended, so that the set of readers is final then.
  Result<> begin_reading(std::uint32_t member);
  void finish_reading(std::uint32_t member, bool recorded);

  /// For the owner, once all copies are queued or the group has ended: the members that read its slot and recorded it.
  std::vector<std::uint32_t> wait_for_readers(Deadline deadline);

 private:
  struct Seat {
    std::string name;
    Post post = {};
    bool here = false;     // posted for the meeting that is not yet decided
    bool reading = false;  // between begin_reading and finish_reading
    bool read = false;     // recorded its copy of the current broadcast
  };

  void decide();
  Result<device::Range> answer() const;
  std::optional<Error> contradiction() const;
  Result<> agreement() const;
  Error late(std::uint32_t waiter) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Seat> seats_;
  std::uint64_t meetings_ = 0;
  Result<device::Range> answer_;
  std::optional<Error> ended_;
};

}  // namespace ckptd::collective
