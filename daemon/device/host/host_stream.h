// Streams and events of host devices.
//
// A stream is one worker thread and one queue. Its items are numbered from 1; its timeline says up to which number they
// are done. Recording queues a mark, with which the worker notes the time; an event is the place of its last mark:
//
//   stream A  | 1 copy | 2 copy | 3 mark |           event = (A, 3)
//   stream B  | 1 wait (A, 3)            | 2 copy |
//
// Waits between streams cannot form a cycle: an item waits only for items that were queued before it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "daemon/device/device.h"

namespace ckptd::device::host {

/// How far a stream has come. Shared by the stream, its events and the items that wait for it. Safe from any thread.
class Timeline {
 public:
  explicit Timeline(std::string name) : name_(std::move(name)) {}

  /// Counts the next item as done. Its error, if it is the first one, stays.
  void finish_item(Result<> outcome);
  bool failed() const;
  bool reached(std::uint64_t place) const;
  /// The first error of the items up to `place`.
  Result<> wait(std::uint64_t place, Deadline deadline) const;
  /// For workers, which are to end only when all their work is done.
  Result<> wait(std::uint64_t place) const;

 private:
  Result<> outcome_up_to(std::uint64_t place) const;

  const std::string name_;
  mutable std::mutex mutex_;
  mutable std::condition_variable progressed_;
  std::uint64_t done_ = 0;
  std::optional<Error> error_;
  std::uint64_t failed_at_ = 0;
};

/// When a worker came to an event's mark. Relaxed: who reads it has seen on the timeline that the mark is done, and no
/// order beyond that may come from here, or ThreadSanitizer would miss waits that are missing.
struct MarkTime {
  std::atomic<std::uint64_t> mark = 0;  ///< the one that `at` is of
  std::atomic<Clock::rep> at = 0;
};

class HostEvent final : public Event {
 public:
  bool reached() const override;
  Result<> wait(Deadline deadline) override;
  std::optional<Clock::time_point> reached_at() const override;

 private:
  friend class HostStream;
  std::shared_ptr<const Timeline> timeline_;  // null before the first record
  std::uint64_t place_ = 0;
  std::uint64_t mark_ = 0;  // counts the records
  const std::shared_ptr<MarkTime> time_ = std::make_shared<MarkTime>();  // outlives us in marks that are queued
};

class HostStream final : public Stream {
 public:
  /// `name` is for messages. Starts the worker; io when the system gives no thread.
  static Result<std::unique_ptr<Stream>> create(std::string name);
  explicit HostStream(std::string name);
  HostStream(const HostStream&) = delete;
  HostStream& operator=(const HostStream&) = delete;
  ~HostStream() override;

  Result<> copy_from_host(Range to, const std::byte* from) override;
  Result<> copy(Range to, Range from) override;
  Result<> record(Event& event) override;
  Result<> wait(const Event& event) override;
  Result<> wake_when_done(const Waker& waker) override;
  Result<> synchronize(Deadline deadline) override;

 private:
  struct HostCopy {
    Range to;
    const std::byte* from;
  };
  struct DeviceCopy {
    Range to;
    Range from;
  };
  struct WaitFor {
    std::shared_ptr<const Timeline> timeline;
    std::uint64_t place;
  };
  struct Wake {
    const Waker* waker;
  };
  struct Mark {
    std::shared_ptr<MarkTime> time;
    std::uint64_t number;
  };
  using Item = std::variant<HostCopy, DeviceCopy, WaitFor, Wake, Mark>;

  void queue(Item item);
  void work();
  Result<> carry_out(const Item& item) const;

  const std::string name_;
  const std::shared_ptr<Timeline> timeline_;
  std::uint64_t queued_ = 0;  // by the one thread that uses the stream

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Item> incoming_;
  bool ending_ = false;

  std::thread worker_;  // last: it uses everything above
};

}  // namespace ckptd::device::host
