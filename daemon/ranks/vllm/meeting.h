// Where the sessions of one update meet whoever calls the engine.
//
//   session             meeting                  caller
//   arrive(step) ────▶  ...until all are there ─▶ gather() returns what they have brought
//   wait() ◀── waker ── acknowledge()  ◀───────── the engine has answered
//
// A session arrives at one step at a time and waits for its acknowledgement. The first failure, of whoever, ends the
// meeting for all. Safe from any thread; gather() alone blocks.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "common/waker.h"
#include "daemon/ranks/session.h"
#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::ranks::vllm {

/// A tensor as the engine is told of it. Owns what it names: the caller's thread outlives the views.
struct WireTensor {
  std::string name;
  std::string_view torch_dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t bytes = 0;
};

/// The bytes of one bucket in one device's memory, and the receipt that comes back for them.
struct WireMemory {
  std::vector<std::uint8_t> handle;
  std::uint64_t storage_bytes = 0, offset = 0, bytes = 0;
  std::string counter_name;
  std::uint64_t counter_index = 0;
};

class Meeting {
 public:
  using Member = std::size_t;

  struct Arrival {
    Step step = Step::offer;
    std::uint32_t number = 0;         ///< of a reload
    std::vector<WireTensor> tensors;  ///< of a reload; of the first member alone, the others have the same
    WireMemory memory;                ///< of a reload
  };
  struct Gathered {
    Step step = Step::offer;
    std::uint32_t number = 0;
    std::vector<WireTensor> tensors;
    std::vector<WireMemory> memories;  ///< by member
  };

  explicit Meeting(std::string engine) : engine_(std::move(engine)) {}

  const std::string& engine() const { return engine_; }
  Result<Member> join(std::string device);
  std::vector<std::string> devices() const;  ///< by member

  // Of a session.
  Result<> arrive(Member member, Arrival arrival);
  int fd(Member member) const;  ///< readable when there may be news for the member
  /// Nothing yet, acknowledged (true once for each arrival), or the failure that ended the meeting.
  Result<bool> look(Member member);
  /// Whether what a member brought to its reload number `count`, from 1 and over all rounds, will never be handed out: the
  /// meeting has ended before.
  bool is_kept_back(std::uint64_t count) const;
  /// Whether a reload was handed out and has not been acknowledged since, nor has the caller ended the meeting.
  bool is_out() const;
  /// Who or what is waited for, for the sentence of a wait that was too long.
  std::string waited_for(Member member) const;
  void leave(const Error& reason) noexcept;  ///< ends the meeting for all, unless it has ended or finished

  // Of the caller.
  Result<Gathered> gather(Deadline deadline, std::stop_token stop);
  /// Before the engine is told of a reload that was gathered. An error when the meeting has ended meanwhile: then it must not
  /// be told, since who has left may think that his memory is nobody's.
  Result<> hand_out();
  void calling(std::string call);  ///< "POST /update_weights", from now until the next acknowledgement
  void acknowledge();              ///< what was gathered; or, after a finish, that all may begin again
  void finished();                 ///< nobody is missed who leaves from now on
  void end(const Error& reason);   ///< the engine's failure
  void handles_were_not_opened();  ///< it refused the first handles before any worker had looked at them
  bool handles_are_unopened() const;
  std::stop_token ended() const { return ended_.get_token(); }

 private:
  struct Seat {
    std::string device;
    Waker waker;
    std::optional<Arrival> arrival;
    std::string place = "not begun";  ///< for sentences
    unsigned acknowledged = 0;  ///< how often, and not yet looked at
  };
  bool all_arrived() const;
  void wake_all() const;

  const std::string engine_;
  mutable std::mutex mutex_;  ///< guards what follows
  std::condition_variable_any changed_;
  std::vector<Seat> seats_;
  std::string call_;  ///< empty: nobody is called
  Clock::time_point call_begun_;
  std::optional<Error> failure_;
  bool finished_ = false, unopened_ = false, out_ = false;
  std::uint64_t handed_out_ = 0;  ///< reloads
  std::stop_source ended_;
};

}  // namespace ckptd::ranks::vllm
