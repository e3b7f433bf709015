// Spreads device bytes from one member to all, agrees on an outcome, aborts.
//
// A Group is one epoch of n members; each member's calls come from one thread (its lane) and all members make the same
// calls in the same order. After abort(), or the first error, the object is dead: every call of every member returns
// that first error, and who wants to go on makes a new group. tests/contract/collective_contract.h is instantiated for
// each backend.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/device/device.h"

namespace ckptd::collective {

class Member {
 public:
  /// Leaves, which ends the group: calls that are not yet complete return an error that names this member.
  virtual ~Member() = default;

  virtual std::uint32_t index() const = 0;

  /// Member `from` has bucket bytes in its `slot`, ordered on its `stream`; on return each other member's `stream`
  /// has work queued that fills the same range of its own slot, and `from`'s stream waits, before anything queued
  /// later, until everybody has read. Blocks for the others' calls until the deadline; timed_out names the missing
  /// members.
  virtual Result<> broadcast(device::Range slot, std::uint32_t from, device::Stream& stream, Deadline deadline) = 0;

  /// All members bring their outcome; all get the same answer: success, or the error of the lowest-numbered member
  /// that brought one. Also the barrier before the first byte moves. timed_out names the missing members.
  virtual Result<> agree(Result<> outcome, Deadline deadline) = 0;

  /// Ends the group for everybody, from any thread, at once. The first reason stays.
  virtual void abort(Error reason) noexcept = 0;
};

}  // namespace ckptd::collective
