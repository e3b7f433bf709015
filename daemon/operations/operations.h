// The use cases, one function a sentence; the only writer of catalogue and fleet.
//
// Every function here validates, decides and returns without waiting for disks, ranks or engines, except journal writes
// (one sync), load(), which may wait a moment (timeouts.load_answer) for an early refusal, and update() with an external
// trigger, which waits as long for the endpoints: control/ calls them on its worker threads, never on the thread that
// serves connections. What takes long runs as a job.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/listeners.h"
#include "common/result.h"
#include "proto/control/api.h"
#include "proto/control/events.h"
#include "proto/control/trace.h"

namespace ckptd::operations {

namespace api = proto::control;

class Operations {
 public:
  virtual ~Operations() = default;

  /// Loads a version. The same running request answers with the same job; a version that is resident from the same files
  /// is a job that ends at once. What fails within that moment (a wrong directory, a conflict, the budget) is an error
  /// here, with the job as a fact.
  virtual Result<api::Job> load(const api::LoadRequest& request) = 0;
  /// With an external trigger the answer has the endpoints for whoever calls the engines; without, when they took longer
  /// than that moment: job() has them then.
  virtual Result<api::Job> update(const api::UpdateRequest& request) = 0;
  virtual Result<api::UpdatePreview> preview_update(const api::UpdateRequest& request) = 0;

  virtual std::vector<api::Version> versions() const = 0;
  virtual Result<api::Version> version(const std::string& name, const std::string& version, bool tensors) const = 0;
  virtual Result<> evict(const std::string& name, const std::string& version, bool forget) = 0;
  virtual Result<api::Version> set_kept(const std::string& name, const std::string& version, bool kept) = 0;
  /// Frees idle store memory and kept arenas, and lets go of communicators that wait for their next update.
  virtual api::Trimmed trim() = 0;

  virtual std::vector<api::Job> jobs() const = 0;  ///< without their records
  virtual Result<api::Job> job(const std::string& id) const = 0;
  /// busy while the job runs; not_found when it, or its trace, is no longer kept.
  virtual Result<api::Trace> trace(const std::string& id) const = 0;
  virtual Result<api::Job> cancel_job(const std::string& id, bool force) = 0;
  /// Blocks until the job ends or the deadline; the job as it then is.
  virtual Result<api::Job> wait_job(const std::string& id, Deadline deadline) const = 0;

  /// Measures what the machine can do at best. busy while a load or an update runs.
  virtual Result<api::Job> probe() = 0;

  virtual std::vector<api::Engine> engines() const = 0;
  virtual Result<api::Engine> engine(const std::string& name) const = 0;
  virtual Result<api::Engine> put_engine(const api::EngineRequest& request) = 0;
  virtual Result<> remove_engine(const std::string& name) = 0;
  /// Asks it for checksums of what its ranks hold and compares them, as a job: with those that it told right after its last
  /// update, and with those of others that serve the same. Weights that have changed since poison it.
  virtual Result<api::Job> verify(const std::string& engine) = 0;
  /// Moves its target at once; an engine that the daemon follows is brought there by itself. busy while it is updated.
  virtual Result<api::Engine> change_engine(const std::string& name, const api::EngineChange& change) = 0;
  /// Moves engines back to what they were given before, and begins the update.
  virtual Result<api::Job> roll_back(const api::RollbackRequest& request) = 0;
  /// Takes an engine out of service or brings it back: jobs that run go on, nothing new is pushed meanwhile.
  virtual Result<api::Engine> set_drained(const std::string& name, bool drained) = 0;
  virtual Result<api::Status> set_node_drained(bool drained) = 0;
  /// Looks after the engines from now on. Once, when those of the configuration are registered.
  virtual void start_watching() = 0;
  /// Asks the threads that look after engines to end, without waiting for them. At the beginning of an orderly end.
  virtual void stop_watching() = 0;

  virtual api::Status status() const = 0;

  /// Reads the configuration again and applies what can change while the daemon runs: jobs that run keep what they
  /// began with. All or nothing: on an error everything is as it was. status() tells the outcome of the last one.
  virtual Result<api::Reload> reload() = 0;
  /// Tells what happens from now on; first, as progress, of the jobs that run. The listener is called where things
  /// happen and under locks: it takes its copy and returns, and calls nothing here. To be ended before the operations.
  [[nodiscard]] virtual Subscription subscribe(std::function<void(const api::Event&)> listener) = 0;
};

}  // namespace ckptd::operations
