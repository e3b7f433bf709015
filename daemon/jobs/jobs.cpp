#include "daemon/jobs/jobs.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <ranges>
#include <system_error>
#include <thread>
#include <utility>

#include "common/units.h"

namespace ckptd::jobs {
namespace {

struct Job {
  Record record;
  std::optional<std::string> guard;
  std::thread thread;
  std::stop_source stop;
};

using JobPointer = std::shared_ptr<Job>;

Result<std::string> run_body(Body body, Handle& handle) {
  try {
    return body(handle);
  } catch (const std::exception& error) {
    return fail(ErrorKind::internal, "{} ended with an exception, which is a bug of ckptd: {}", handle.id(),
                error.what());
  } catch (...) {
    return fail(ErrorKind::internal, "{} ended with an unknown exception, which is a bug of ckptd", handle.id());
  }
}

void settle(Record& record, Result<std::string> result) {
  record.ended = std::chrono::system_clock::now();
  if (result) {
    record.state = State::succeeded;
    record.result = std::move(*result);
    return;
  }
  record.state = result.error().kind == ErrorKind::cancelled ? State::cancelled : State::failed;
  record.error = std::move(result).error();
}

std::string what_it_does(const Record& record) {
  std::string text = record.stage.empty() ? "it has not told its stage" : record.stage;
  if (record.total_bytes > 0)
    text += fmt::format(", {} of {}", show_bytes(record.done_bytes), show_bytes(record.total_bytes));
  return text;
}

}  // namespace

std::string_view name_of(State state) {
  switch (state) {
    case State::running: return "running";
    case State::succeeded: return "succeeded";
    case State::failed: return "failed";
    case State::cancelled: return "cancelled";
  }
  return "failed";
}

struct Registry::Impl {
  explicit Impl(std::size_t history_length) : history(history_length) {}

  class JobHandle;

  const std::size_t history;

  mutable std::mutex mutex;  ///< guards everything below and every Job but its stop source, which guards itself
  mutable std::condition_variable some_job_ended;
  std::vector<JobPointer> jobs;         ///< in the order of their start
  std::deque<JobPointer> ended;         ///< those of `jobs` that ended, in the order of their end
  std::vector<std::thread> to_be_joined;  ///< their last act was to move themselves here
  std::uint64_t last_number = 0;
  std::size_t running = 0;
  bool shutting_down = false;
  Listeners<Change, const Record&> observers;  ///< told with the lock held

  std::mutex joining;  ///< held while joining, so that shutdown() never returns before somebody else's join

  JobPointer find(const std::string& id) const {
    auto found = std::ranges::find(jobs, id, [](const JobPointer& job) -> auto& { return job->record.id; });
    return found == jobs.end() ? nullptr : *found;
  }

  Result<JobPointer> find_or_fail(const std::string& id) const {
    if (auto job = find(id)) return job;
    return fail(ErrorKind::not_found,
                "there is no job {}; only the last {} finished ones are remembered, see ckptctl job list", id, history);
  }

  template <class Predicate>
  std::optional<Record> newest(Predicate predicate) const {
    std::scoped_lock lock(mutex);
    for (const auto& job : std::views::reverse(jobs))
      if (predicate(job->record)) return job->record;
    return std::nullopt;
  }

  void run(const JobPointer& job, Body body);
  void finish(const JobPointer& job, Result<std::string> result);
  void reap();
};

class Registry::Impl::JobHandle final : public Handle {
 public:
  JobHandle(Impl& registry, Job& job) : registry_(registry), job_(job), id_(job.record.id) {}

  const std::string& id() const override { return id_; }
  std::stop_token stop() const override { return job_.stop.get_token(); }

  void stage(std::string text) override {
    std::scoped_lock lock(registry_.mutex);
    job_.record.stage = std::move(text);
    registry_.observers.tell(Change::progressed, job_.record);
  }

  void progress(std::uint64_t done_bytes, std::uint64_t total_bytes) override {
    std::scoped_lock lock(registry_.mutex);
    job_.record.done_bytes = done_bytes;
    job_.record.total_bytes = total_bytes;
    registry_.observers.tell(Change::progressed, job_.record);
  }

  void took(StageTime stage) override {
    std::scoped_lock lock(registry_.mutex);
    job_.record.stages.push_back(std::move(stage));
  }

  Result<> guard_against_cancel(std::string sentence) override {
    {
      std::scoped_lock lock(registry_.mutex);
      if (!job_.record.cancel_requested && !registry_.shutting_down) {
        job_.guard = std::move(sentence);
        return {};
      }
    }
    // Whoever cancelled may not have come as far as requesting the stop yet.
    job_.stop.request_stop();
    return fail(ErrorKind::cancelled, "{} was cancelled before it had touched anything", id_);
  }

 private:
  Impl& registry_;
  Job& job_;
  const std::string id_;  // a copy: the record is guarded by a lock that a reference would escape
};

void Registry::Impl::run(const JobPointer& job, Body body) {
  JobHandle handle = [&] {
    std::scoped_lock lock(mutex);
    return JobHandle(*this, *job);
  }();
  auto result = run_body(std::move(body), handle);  // a statement of its own: the body is destroyed at its end
  finish(job, std::move(result));
}

void Registry::Impl::finish(const JobPointer& job, Result<std::string> result) {
  JobPointer leaves;  // destroyed after the lock is released
  std::scoped_lock lock(mutex);
  settle(job->record, std::move(result));
  observers.tell(Change::ended, job->record);
  to_be_joined.push_back(std::move(job->thread));
  ended.push_back(job);
  if (ended.size() > history) {
    leaves = std::move(ended.front());
    ended.pop_front();
    std::erase(jobs, leaves);
  }
  --running;
  some_job_ended.notify_all();
}

// The threads that it joins have nothing left to do but to return.
void Registry::Impl::reap() {
  std::scoped_lock join_lock(joining);
  std::vector<std::thread> done;
  {
    std::scoped_lock lock(mutex);
    done.swap(to_be_joined);
  }
  for (auto& thread : done) thread.join();
}

Registry::Registry(std::size_t history) : impl_(std::make_unique<Impl>(history)) {}

Registry::~Registry() { shutdown(); }

Result<Record> Registry::start(Request request, Body body) {
  impl_->reap();
  auto job = std::make_shared<Job>();
  std::scoped_lock lock(impl_->mutex);
  if (impl_->shutting_down)
    return fail(ErrorKind::unavailable, "ckptd is shutting down and starts no {}; repeat the request once it is back",
                request.kind);
  auto& record = job->record;
  record.id = fmt::format("{}-{}", request.kind, impl_->last_number + 1);
  record.kind = std::move(request.kind);
  record.subject = std::move(request.subject);
  record.key = std::move(request.key);
  record.idempotency_key = std::move(request.idempotency_key);
  record.started = std::chrono::system_clock::now();
  impl_->jobs.push_back(job);
  try {
    // The lock keeps the new thread from finishing, and so from moving its own std::thread, before it is stored.
    job->thread = std::thread([impl = impl_.get(), job, body = std::move(body)]() mutable {
      impl->run(job, std::move(body));
    });
  } catch (const std::system_error& error) {
    impl_->jobs.pop_back();
    return fail(ErrorKind::no_space, "cannot start a thread for {} ({}); raise the limit of tasks or processes",
                record.id, error.what());
  }
  ++impl_->last_number;
  ++impl_->running;
  impl_->observers.tell(Change::started, record);
  return record;
}

std::optional<Record> Registry::find(const std::string& id) const {
  return impl_->newest([&](const Record& record) { return record.id == id; });
}

std::vector<Record> Registry::list() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<Record> records;
  records.reserve(impl_->jobs.size());
  for (const auto& job : std::views::reverse(impl_->jobs)) records.push_back(job->record);
  return records;
}

std::vector<Record> Registry::running() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<Record> records;
  for (const auto& job : std::views::reverse(impl_->jobs))
    if (job->record.state == State::running) records.push_back(job->record);
  return records;
}

Subscription Registry::observe(Observer observer) {
  std::scoped_lock lock(impl_->mutex);
  for (const auto& job : impl_->jobs)
    if (job->record.state == State::running) observer(Change::progressed, job->record);
  return impl_->observers.add(std::move(observer));
}

std::optional<Record> Registry::running_with_key(const std::string& key) const {
  return impl_->newest([&](const Record& record) { return record.state == State::running && record.key == key; });
}

std::optional<Record> Registry::with_idempotency_key(const std::string& key, const std::string& idempotency_key) const {
  if (idempotency_key.empty()) return std::nullopt;
  return impl_->newest(
      [&](const Record& record) { return record.key == key && record.idempotency_key == idempotency_key; });
}

Result<Record> Registry::cancel(const std::string& id, bool force) {
  JobPointer job;
  Record record;
  {
    std::scoped_lock lock(impl_->mutex);
    job = CKPTD_TRY(impl_->find_or_fail(id));
    if (job->record.state != State::running)
      return fail(ErrorKind::conflict, "{} has ended already ({}); there is nothing to cancel", id,
                  name_of(job->record.state));
    if (job->guard && !force)
      return std::unexpected(Error{ErrorKind::conflict, *job->guard}.with_fact("job", id));
    job->record.cancel_requested = true;
    impl_->observers.tell(Change::progressed, job->record);
    record = job->record;
  }
  // Without the lock: callbacks run right here and may tell a stage or a progress.
  job->stop.request_stop();
  return record;
}

Result<Record> Registry::wait(const std::string& id, Deadline deadline) const {
  std::unique_lock lock(impl_->mutex);
  const auto job = CKPTD_TRY(impl_->find_or_fail(id));
  const auto& record = job->record;
  if (impl_->some_job_ended.wait_until(lock, deadline.at(), [&] { return record.state != State::running; }))
    return record;
  return std::unexpected(Error{ErrorKind::timed_out, fmt::format("{} ({}) is still running: {}", id, record.subject,
                                                                 what_it_does(record))}
                             .with_fact("job", id));
}

void Registry::shutdown() {
  std::vector<JobPointer> all;
  {
    std::scoped_lock lock(impl_->mutex);
    impl_->shutting_down = true;
    all = impl_->jobs;
  }
  for (const auto& job : all) job->stop.request_stop();
  {
    std::unique_lock lock(impl_->mutex);
    impl_->some_job_ended.wait(lock, [this] { return impl_->running == 0; });
  }
  impl_->reap();
}

}  // namespace ckptd::jobs
