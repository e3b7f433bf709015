// Long-running requests: progress, cancellation, history.
//
// A job is one thread that runs one function. Registry is safe from any thread and its calls never block, except
// shutdown() and wait(). The history is bounded: finished jobs leave, the one that ended first leaves first; running
// ones never do. A job's record is a copy. Bodies are destroyed, with all that they hold, before their job counts as
// ended. A body must not call shutdown().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/deadline.h"
#include "common/listeners.h"
#include "common/result.h"

namespace ckptd::jobs {

enum class State { running, succeeded, failed, cancelled };
std::string_view name_of(State state);

/// Where a job's time went. Stages may overlap, so their seconds need not add up to the job's.
struct StageTime {
  std::string name;  ///< one fixed lower-case word, fit for a metric's label: "read", "upload"
  double seconds = 0;
  std::uint64_t bytes = 0;  ///< that went through it; 0 where none do
};

struct Record {
  std::string id;        ///< "load-17", "update-18"
  std::string kind;      ///< "load", "update"
  std::string subject;   ///< what it is about, for people: "llama@3 -> sglang-0"
  std::string key;       ///< what makes two requests the same request
  std::string idempotency_key;
  State state = State::running;
  std::string stage;     ///< "reading", "waiting for sglang-0"
  std::uint64_t done_bytes = 0, total_bytes = 0;
  std::optional<Error> error;
  std::string result;    ///< a JSON object, once succeeded
  std::chrono::system_clock::time_point started, ended;
  bool cancel_requested = false;
  std::vector<StageTime> stages;  ///< told towards the end, also of one that failed
};

enum class Change { started, progressed, ended };
/// Called with the registry's lock held, so that all see a job's changes in their order: it copies what it needs, and
/// neither blocks nor calls the registry.
using Observer = std::function<void(Change, const Record&)>;

/// What a running job's function is given: how it tells progress and learns that it should stop.
class Handle {
 public:
  virtual ~Handle() = default;
  virtual const std::string& id() const = 0;
  /// Callbacks registered here run on the thread that cancels, which holds no lock of the registry.
  virtual std::stop_token stop() const = 0;
  virtual void stage(std::string text) = 0;
  virtual void progress(std::uint64_t done_bytes, std::uint64_t total_bytes) = 0;
  /// Adds to Record::stages.
  virtual void took(StageTime stage) = 0;
  /// From now on cancel() without force is refused with this sentence. cancelled when a cancel or the end of the
  /// daemon came first: then stop() is requested, and the job should end instead of doing what it wanted to guard.
  virtual Result<> guard_against_cancel(std::string sentence) = 0;
};

/// Returns the result, a JSON object. An Error of kind cancelled makes the job cancelled, any other makes it failed,
/// and so does an exception, as an internal error.
using Body = std::function<Result<std::string>(Handle&)>;

struct Request {
  std::string kind, subject, key, idempotency_key;
};

class Registry {
 public:
  explicit Registry(std::size_t history);
  Registry(const Registry&) = delete;  // jobs refer to it
  Registry& operator=(const Registry&) = delete;
  ~Registry();  ///< as shutdown()

  /// Starts a thread; ids count up over all kinds. unavailable while shutting down, no_space without another thread.
  Result<Record> start(Request request, Body body);

  std::optional<Record> find(const std::string& id) const;
  std::vector<Record> list() const;  ///< newest first
  std::optional<Record> running_with_key(const std::string& key) const;
  /// The newest job, finished or not, with this key and this non-empty idempotency key.
  std::optional<Record> with_idempotency_key(const std::string& key, const std::string& idempotency_key) const;

  /// not_found; conflict when it has ended; conflict, with the guard's sentence, when guarded and not forced.
  Result<Record> cancel(const std::string& id, bool force);

  /// Waits for the end of the job; timed_out with what it was doing.
  Result<Record> wait(const std::string& id, Deadline deadline) const;

  std::vector<Record> running() const;  ///< newest first; without copying the history

  /// Tells of every change from now on; first, as progressed, of the jobs that run.
  [[nodiscard]] Subscription observe(Observer observer);

  /// Refuses new jobs, asks all to stop and joins their threads.
  void shutdown();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ckptd::jobs
