// The custodian of endpoints whose session failed or whose daemon died.
//
// The Python worker waits in recv without a time-out, and an engine may come to an endpoint long after its update has
// failed (requests that were running held the engine's writer lock). So a failed endpoint stays bound, and whoever is
// or comes there gets the exception: at once, and again after each reply, because a rank that could not open the memory
// waits for one more message of any kind before it gives up, and now and then while it stays. One thread does this for
// all endpoints in one poll.
//
// take() hands a socket over under a lock, which is the fence that ZeroMQ asks for between two threads.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "common/deadline.h"
#include "common/waker.h"
#include "daemon/ranks/checkpoint_engine/bound_socket.h"
#include "daemon/ranks/endpoints.h"

namespace ckptd::ranks::checkpoint_engine {

/// How long an endpoint stays bound after its rank has gone: a rank that closes right after a reply must get rid of it,
/// or the end of its ZeroMQ context blocks for ever.
inline constexpr std::chrono::milliseconds kStayBound{500};
/// How long it stays instead where the rank may have ended its session well all the same: it may be on its way back for
/// another, with its garbage to be collected in between, and would wait for ever where nobody is.
inline constexpr std::chrono::milliseconds kStayForReturn{10'000};

/// What is known about an endpoint in custody when it is asked how long to keep it.
struct Watch {
  Clock::time_point taken;
  Clock::time_point last_change;  ///< somebody came, replied or went
  bool anybody_came = false;
  std::size_t connected = 0;
  std::chrono::milliseconds stay_at_least{0};  ///< from `last_change` on
};

/// When the endpoint is closed if nothing more happens. Never while somebody is connected.
Clock::time_point closing_time(const Watch& watch, std::chrono::milliseconds keep_bound);

class Custodian {
 public:
  struct Charge {
    BoundSocket socket;
    OpenEndpoint open;
    std::string exception;  ///< the message, pickled
    std::chrono::milliseconds stay_at_least{0};
  };

  Custodian(std::chrono::milliseconds keep_bound, Waker waker);
  ~Custodian();
  Custodian(const Custodian&) = delete;  // its thread points here
  Custodian& operator=(const Custodian&) = delete;

  /// From any thread, never blocks for a rank. After stop() the exception is sent once and the endpoint closed.
  void take(Charge charge) noexcept;

  std::vector<OpenEndpoint> held() const;
  /// Waits for a callback that is running, so it must not be called from one.
  void on_closed(std::function<void(const std::string& endpoint)> callback);
  std::vector<OpenEndpoint> drain(Deadline deadline);
  /// Wakes the thread and waits until it begins another round; timed_out.
  Result<> check_alive(Deadline deadline) const;

  /// Ends the thread and closes everything that it held. Idempotent.
  void stop() noexcept;

 private:
  class Ward;

  void run() noexcept;
  void round(std::list<Ward>& wards);
  /// Takes in what was handed over. False when it is time to end.
  bool admit(std::list<Ward>& wards);
  void closed(const std::string& endpoint) noexcept;
  void sleep(std::list<Ward>& wards);

  const std::chrono::milliseconds keep_bound_;
  const Waker waker_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Charge> inbox_;       ///< guarded by mutex_, as the next three
  std::vector<OpenEndpoint> held_;  ///< inbox and wards together
  bool stopping_ = false;
  std::uint64_t rounds_ = 0;  ///< begun
  std::mutex callback_mutex_;
  std::function<void(const std::string&)> callback_;  ///< guarded by callback_mutex_
  std::thread thread_;
};

}  // namespace ckptd::ranks::checkpoint_engine
