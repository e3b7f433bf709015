// Operations that do nothing but remember and answer what a test told them to.
#pragma once

#include <fmt/ranges.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>

#include "daemon/operations/operations.h"

namespace ckptd::testing {

namespace api = proto::control;

inline api::Job job_in(std::string state) {
  api::Job job;
  job.id = "load-1";
  job.kind = "load";
  job.state = std::move(state);
  return job;
}

inline api::Job job_named(std::string id, std::string state, std::uint64_t done_bytes = 0) {
  auto job = job_in(std::move(state));
  job.id = std::move(id);
  job.done_bytes = done_bytes;
  return job;
}

inline api::Version version_named(std::string name, std::string version) {
  api::Version made;
  made.name = std::move(name);
  made.version = std::move(version);
  made.state = "resident";
  return made;
}

class FakeOperations final : public operations::Operations {
 public:
  // ---- what a test sets ----

  /// The error that every function that can fail answers with.
  void fail_with(Error error) {
    std::lock_guard lock(mutex_);
    error_ = std::move(error);
  }
  void set_job(api::Job job) {
    std::lock_guard lock(mutex_);
    job_ = std::move(job);
  }
  /// Runs at the beginning of every call, on the caller's thread.
  std::function<void()> on_call = [] {};
  bool ready = true;
  std::string engine_state = "serving", engine_why;
  bool engine_ready = true;

  /// To whoever subscribed.
  void tell(const api::Event& event) { listeners_.tell(event); }

  // ---- what a test looks at ----

  std::string last() const {
    std::lock_guard lock(mutex_);
    return last_;
  }
  int calls() const { return calls_; }

  // ---- Operations ----

  Result<api::Job> load(const api::LoadRequest& r) override {
    return answer(fmt::format("load {}@{} {} {} [{}]", r.name, r.version, r.source_uri, r.keep, r.idempotency_key),
                  current_job());
  }
  Result<api::Job> update(const api::UpdateRequest& r) override {
    return answer(fmt::format("update {}@{} force={} [{}]", r.name, r.version, r.force, r.idempotency_key),
                  current_job());
  }
  Result<api::UpdatePreview> preview_update(const api::UpdateRequest& r) override {
    return answer(fmt::format("preview {}@{}", r.name, r.version), api::UpdatePreview{r.name + "@" + r.version, {}});
  }
  std::vector<api::Version> versions() const override {
    note("versions");
    return {version_named("a/b", "1"), version_named("a/b", "2"), version_named("c", "1")};
  }
  Result<api::Version> version(const std::string& name, const std::string& version, bool tensors) const override {
    return answer(fmt::format("version {}@{} {}", name, version, tensors), version_named(name, version));
  }
  Result<> evict(const std::string& name, const std::string& version, bool forget) override {
    note(fmt::format("evict {}@{} {}", name, version, forget));
    std::lock_guard lock(mutex_);
    if (error_) return std::unexpected(*error_);
    return {};
  }
  Result<api::Version> set_kept(const std::string& name, const std::string& version, bool kept) override {
    return answer(fmt::format("set_kept {}@{} {}", name, version, kept), version_named(name, version));
  }
  api::Trimmed trim() override {
    note("trim");
    return {.bytes = 4096, .communicators = 2};
  }
  std::vector<api::Job> jobs() const override {
    note("jobs");
    return {current_job()};
  }
  Result<api::Job> job(const std::string& id) const override { return answer("job " + id, current_job()); }
  Result<api::Trace> trace(const std::string& id) const override {
    api::Trace trace;
    trace.job = id;
    return answer("trace " + id, trace);
  }
  Result<api::Job> probe() override { return answer("probe", current_job()); }
  Result<api::Job> verify(const std::string& engine) override { return answer("verify " + engine, current_job()); }
  Result<api::Job> cancel_job(const std::string& id, bool force) override {
    return answer(fmt::format("cancel_job {} {}", id, force), current_job());
  }
  Result<api::Job> wait_job(const std::string& id, Deadline) const override {
    return answer("wait_job " + id, current_job());
  }
  std::vector<api::Engine> engines() const override {
    note("engines");
    return {engine_named("e")};
  }
  Result<api::Engine> engine(const std::string& name) const override {
    return answer("engine " + name, engine_named(name));
  }
  Result<api::Engine> put_engine(const api::EngineRequest& r) override {
    return answer(fmt::format("put_engine {} {} {} {}", r.name, r.kind, r.endpoint, r.checkpoint),
                  engine_named(r.name));
  }
  Result<> remove_engine(const std::string& name) override {
    note("remove_engine " + name);
    std::lock_guard lock(mutex_);
    if (error_) return std::unexpected(*error_);
    return {};
  }
  Result<api::Engine> change_engine(const std::string& name, const api::EngineChange& change) override {
    return answer(fmt::format("change_engine {} {}", name, change.target), engine_named(name));
  }
  Result<api::Job> roll_back(const api::RollbackRequest& r) override {
    return answer(fmt::format("roll_back [{}] force={} [{}]", fmt::join(r.engines, ","), r.force, r.idempotency_key),
                  current_job());
  }
  Result<api::Engine> set_drained(const std::string& name, bool drained) override {
    return answer(fmt::format("set_drained {} {}", name, drained), engine_named(name));
  }
  Result<api::Status> set_node_drained(bool drained) override {
    auto shown = answer(fmt::format("set_node_drained {}", drained), api::Status());
    if (shown) shown->drained = drained;
    return shown;
  }
  void start_watching() override {}
  void stop_watching() override {}
  api::Status status() const override {
    note("status");
    api::Status status;
    status.daemon_version = "1";
    status.ready = ready;
    if (!ready) status.not_ready = {"a/b@1 is loading"};
    status.engines = {engine_named("e")};
    api::DeviceStatus device;
    device.uuid = "HOST-0";
    device.kind = "host";
    status.devices = {device};
    return status;
  }
  Result<api::Reload> reload() override {
    return answer("reload", api::Reload{.applied = {"log_level"}, .needs_restart = {"store.budget"}});
  }

  Subscription subscribe(std::function<void(const api::Event&)> listener) override {
    return listeners_.add(std::move(listener));
  }

 private:
  api::Engine engine_named(const std::string& name) const {
    api::Engine engine;
    engine.name = name;
    engine.state = engine_state;
    engine.ready = engine_ready;
    engine.serving = "a@1";
    engine.target = "a@1";
    engine.why = engine_why;
    return engine;
  }

  void note(std::string call) const {
    ++calls_;
    {
      std::lock_guard lock(mutex_);
      last_ = std::move(call);
    }
    on_call();
  }

  template <class T>
  Result<T> answer(std::string call, T value) const {
    note(std::move(call));
    std::lock_guard lock(mutex_);
    if (error_) return std::unexpected(*error_);
    return value;
  }

  api::Job current_job() const {
    std::lock_guard lock(mutex_);
    return job_;
  }

  mutable std::mutex mutex_;
  mutable std::string last_;
  mutable std::atomic<int> calls_ = 0;
  std::optional<Error> error_;
  api::Job job_ = job_in("running");
  Listeners<const api::Event&> listeners_;
};

}  // namespace ckptd::testing
