// The communicators of an ordered set of devices, one for each: NCCL's part of a group, which many groups use in turn.
//
// One thread makes every call of NCCL for all devices of the set, within ncclGroupStart and ncclGroupEnd. So nothing of
// NCCL ever waits for a thread of ours that has not come, and no wait of ours is longer than its deadline, whatever a
// call does: lanes wait for that thread and not in NCCL. Communicators are non-blocking: the thread asks each how it
// fares until all have done the step.
//
//   starting ──▶ ready ⇄ launching ──▶ ending ──▶ ended
//      └──────────────────────┴──────────▲
//
// An end that was ordered while the set is ready lets broadcasts that are queued go on for Patience::drain: they need
// nothing from the host, and cut off they would leave half of their bytes and no error. After that, and at once when
// a step has not succeeded for all, they are cut off (ncclCommAbort): then nobody was told that they were queued.
// Each communicator is aborted or destroyed once. Safe from any thread.
//
// Further members may be in other processes, which have joined with the same unique id. They can be missing within NCCL:
// then a step is queued here and does not come to its end on the stream, which whoever waits for that has to bound.
#pragma once

#include <fmt/ranges.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/collective/nccl/library.h"
#include "daemon/collective/nccl/natives.h"
#include "daemon/device/device.h"

namespace ckptd::collective::nccl {

struct Patience {
  std::chrono::milliseconds start{30'000};  ///< making the communicators of a set; blocks whoever makes a group
  std::chrono::milliseconds drain{5'000};   ///< what is queued when a group has ended with an error
  /// A call of NCCL from which the thread does not return, once somebody needs it to: after this it is aborted from
  /// another thread, and after this again the devices are given up.
  std::chrono::milliseconds stuck{5'000};
};

/// Members in other processes. Their ranks follow those of the devices here.
struct Others {
  unsigned ranks = 0;
  UniqueId id{};  ///< that they were told; not used without any
};
Result<UniqueId> new_unique_id(const Library& library);

/// A member's part of a broadcast.
struct Part {
  device::Stream* stream = nullptr;
  void* native = nullptr;
  device::Range slot = {};
};

class Communicators : public std::enable_shared_from_this<Communicators> {
 public:
  /// Begins to make them; wait_until_ready() tells the outcome. `names` are the devices', for messages. The devices
  /// outlive the set until it has ended or is abandoned.
  static Result<std::shared_ptr<Communicators>> start(std::shared_ptr<const Library> library, Natives natives,
                                                      Patience patience, std::vector<device::Device*> devices,
                                                      std::vector<std::string> names, Others others = {});
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;
  ~Communicators();

  const std::vector<device::Device*>& devices() const { return devices_; }

  /// timed_out names the devices that are not yet there.
  Result<> wait_until_ready(Deadline deadline);
  /// Whether nothing has happened to them since.
  Result<> check(Deadline deadline);

  /// Broadcasts and sums are numbered; the last one that was queued.
  std::uint64_t launched() const;
  /// Orders broadcast number launched() + 1, one part for each device. The streams are used by our thread until
  /// wait_until_launched() has returned without error, or wait_until_quiet() has returned.
  void launch(std::uint32_t from, std::vector<Part> parts);
  /// The same with a sum over all members of the float32s in each one's slot, in place.
  void launch_sum(std::vector<Part> parts);
  /// Until it is queued on all streams, the set ends, or the deadline. Does not itself end the set.
  Result<> wait_until_launched(std::uint64_t number, Deadline deadline);
  /// After an end(): until no stream is used by our thread or NCCL any more. Not longer than twice Patience::stuck;
  /// devices whose streams may be used even then are given up.
  void wait_until_quiet();

  enum class End {
    cut,     ///< let what is queued go on for a while, then ncclCommAbort
    finish,  ///< ncclCommFinalize and ncclCommDestroy; nothing failed
  };
  /// The first order counts. Blocks for nobody.
  void end(End how, Error reason) noexcept;
  /// The same with cut, for one that is still being made.
  void end_unless_ready(Error reason) noexcept;
  /// From now on nobody waits beyond `by` for NCCL, whatever the patience is: what does not return by the middle of the time
  /// until then is aborted from another thread, as after Patience::stuck. Blocks for nobody.
  void hurry(Deadline by) noexcept;
  /// Whether it has ended by the deadline. What does not return from a call by `rescue_at` is aborted from another thread; if
  /// that does not help either it is abandoned: it touches no device any more. `hurried`: earlier, if hurry() wants it so.
  bool wait_until_ended(Deadline rescue_at, Deadline deadline, bool hurried = false);

 private:
  struct Request {
    enum class What { check, broadcast, sum };
    What what = What::check;  // check: only whether all are well
    std::uint32_t from = 0;
    std::vector<Part> parts;
  };

  Communicators(std::shared_ptr<const Library> library, Natives natives, Patience patience,
                std::vector<device::Device*> devices, std::vector<std::string> names, Others others);

  void order(Request request);
  void work();
  Result<> make_all();
  void serve();
  Result<> carry_out(const Request& request);
  Result<> within_group(const std::string& what, const std::function<Result<>(std::uint32_t member)>& act);
  Result<> settle(const std::string& what);
  void wind_down(bool complete);
  void drain();
  bool finish();
  void cut();

  /// Makes a call of NCCL on our thread; an error if another thread has taken over meanwhile.
  template <class Function, class... Arguments>
  Result<Code> call(Function Functions::*function, Arguments... arguments);
  Result<> expect(Result<Code> code, const std::string& what) const;
  bool rescue();
  void run_rescue();
  /// hurry() moved a deadline of ours forward.
  Deadline hurried(Deadline deadline) const { return hurry_ ? deadline.earlier(hurry_->first) : deadline; }
  template <class Condition>
  bool wait_hurried(std::unique_lock<std::mutex>& lock, Deadline deadline, bool last, Condition condition);
  bool nothing_to_wait_for();
  bool lost() const { return rescued_ || abandoned_; }
  std::string in_progress() const;
  Error ended_error() const;

  const std::shared_ptr<const Library> library_;
  const Natives natives_;
  const Patience patience_;
  const std::vector<device::Device*> devices_;
  const std::vector<std::string> names_;
  const Others others_;
  std::vector<std::unique_ptr<device::Event>> queued_;  // each member's last broadcast; of our thread

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Comm> comms_;  // null: not there yet, or any more
  bool ready_ = false, ended_ = false;
  std::optional<Request> request_;
  std::uint64_t launched_ = 0, checked_ = 0, checks_ = 0;
  bool streams_in_use_ = false;
  std::optional<Error> failure_;  // of a step of NCCL
  std::optional<End> end_;
  std::optional<Error> end_reason_;
  std::string step_;           // what our thread does, for messages
  std::vector<bool> pending_;  // who has not done it

  struct Hurry {
    Deadline first, last;  // for a call to return, for the abort by another thread
  };
  std::optional<Hurry> hurry_;

  bool in_call_ = false;  // our thread is in a call of NCCL
  bool cutting_ = false;  // and has begun with ncclCommAbort
  bool rescued_ = false;  // another thread aborts in its place; ours touches nothing any more
  bool abandoned_ = false;
  bool given_up_ = false;
};

template <class Function, class... Arguments>
Result<Code> Communicators::call(Function Functions::*function, Arguments... arguments) {
  const auto refused = [&] {
    return fail(ErrorKind::cancelled, "the communicators of {} were aborted meanwhile", fmt::join(names_, ", "));
  };
  {
    std::lock_guard lock(mutex_);
    if (lost()) return refused();
    in_call_ = true;
  }
  const Code code = (library_->functions().*function)(arguments...);
  std::lock_guard lock(mutex_);
  in_call_ = false;
  if (lost()) return refused();
  return code;
}

}  // namespace ckptd::collective::nccl
