// What clients of the event streams have yet to be told, in bounded memory however slowly they read.
//
//   sequence    ...  41 started  42 engine  43 ended  44 version          the ring: everything but progress
//                         ^ feed A                       ^ feed B         a feed is a place in it
//   progress    load-7: latest record    update-8: latest record          one for each running job, overwritten
//
// Nothing is queued for a client: it holds a place in the ring, and takes what is behind it when its socket has room.
// So a slow one sees less progress, and one that is overtaken by the ring is told how many events it has missed; an
// outcome never goes missing in silence. The feed of one job holds on to that job's outcome by itself.
//
// The log may be used from any thread and never blocks; its wake callback runs on the thread that adds. Feeds and the
// texts that they make belong to one thread, that of the server. Feeds must not outlive the log.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "common/deadline.h"
#include "proto/control/events.h"

namespace ckptd::control {

namespace api = proto::control;

/// One event, made into text when the first client wants it: without clients nothing is.
class LoggedEvent {
 public:
  LoggedEvent(std::string id, api::Event event) : id_(std::move(id)), event_(std::move(event)) {}

  const api::Event& event() const { return event_; }
  const std::string& text() const;  ///< the server's thread only

 private:
  std::string id_;
  api::Event event_;
  mutable std::string text_;
};

using EventPointer = std::shared_ptr<const LoggedEvent>;

/// One client's place.
class EventFeed {
 public:
  virtual ~EventFeed() = default;
  /// What this client is to be sent now, some events at most; empty when there is nothing new.
  virtual std::string next(Clock::time_point now) = 0;
  /// Nothing will follow.
  virtual bool is_over() const = 0;
};

class EventLog {
 public:
  struct Limits {
    std::size_t events = 1024;                         ///< in the ring
    std::size_t bytes = 8 << 20;                       ///< about; one event is kept whatever its size
    std::chrono::milliseconds progress_interval{200};  ///< to one client
  };

  /// `epoch` begins every id: those of another daemon are recognised by it.
  EventLog(std::string epoch, Limits limits);
  EventLog(const EventLog&) = delete;  // feeds refer to it
  EventLog& operator=(const EventLog&) = delete;

  /// Called after each event but progress. To be set before anything is added.
  void on_news(std::function<void()> wake) { wake_ = std::move(wake); }

  void add(const api::Event& event);

  /// Everything from now on, after the progress of what runs; or from behind `last_event_id`, when that is not empty.
  std::unique_ptr<EventFeed> follow_all(std::string_view last_event_id);
  /// One job as the caller saw it, up to its outcome.
  std::unique_ptr<EventFeed> follow_job(const api::Job& job);

  /// Progress may come at any time: who waits should look again after `limits().progress_interval`.
  bool is_something_running() const;
  const Limits& limits() const { return limits_; }

 private:
  class All;
  class OneJob;
  struct RunningJob {
    EventPointer latest;
    std::uint64_t change = 0;  ///< of changes_, when `latest` came
    EventPointer outcome;      ///< null while it runs
  };

  EventPointer outcome_in_ring(const std::string& job) const;
  void append(EventPointer event);

  const std::string epoch_;
  const Limits limits_;
  std::function<void()> wake_ = [] {};

  mutable std::mutex mutex_;  ///< guards everything below; held for no more than a copy of an event
  std::deque<EventPointer> ring_;
  std::size_t ring_bytes_ = 0;
  std::uint64_t first_ = 1;  ///< sequence number of ring_.front(), or of the next event when it is empty
  std::uint64_t changes_ = 0;
  std::map<std::string, std::shared_ptr<RunningJob>> running_;
};

}  // namespace ckptd::control
