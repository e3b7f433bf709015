#include "daemon/control/event_log.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <ranges>
#include <vector>

namespace ckptd::control {
namespace {

using Kind = api::Event::Kind;

constexpr std::size_t kAtOnce = 32;  // events of one piece of text
constexpr std::size_t kEngineRecord = 8 << 10, kLaneRecord = 4 << 10;  // in memory and as text

std::string dumped(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// About what an event keeps in memory. Texts without a bound of their own count, the rest is a flat sum.
std::size_t weight_of(const api::Event& event) {
  auto of_error = [](const std::optional<Error>& error) {
    return error ? error->sentence.size() + error->vendor.size() : 0;
  };
  std::size_t bytes = 1024;
  if (const auto* job = std::get_if<api::Job>(&event.about)) {
    bytes += 2 * job->result.size() + job->subject.size() + job->stage.size() + of_error(job->error);
    if (job->record)
      for (const auto& engine : job->record->engines) bytes += kEngineRecord + kLaneRecord * engine.lanes.size();
  }
  if (const auto* engine = std::get_if<api::Engine>(&event.about)) bytes += engine->poisoned.size();
  if (const auto* version = std::get_if<api::Version>(&event.about))
    bytes += version->source_uri.size() + of_error(version->error);
  return bytes;
}

/// The number in "EPOCH-NUMBER"; nothing for an id of anybody else.
std::optional<std::uint64_t> number_in(std::string_view id, std::string_view epoch) {
  if (!id.starts_with(epoch) || !id.substr(epoch.size()).starts_with('-')) return std::nullopt;
  auto digits = id.substr(epoch.size() + 1);
  std::uint64_t number = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

std::string missed(std::optional<std::uint64_t> events, std::string_view sentence) {
  nlohmann::json data{{"sentence", sentence}};
  if (events) data["events"] = *events;
  return api::to_wire({.id = {}, .name = std::string(api::kMissed), .data = dumped(data)});
}

std::string text_of(const std::vector<EventPointer>& events) {
  std::string text;
  for (const auto& event : events) text += event->text();
  return text;
}

}  // namespace

const std::string& LoggedEvent::text() const {
  if (text_.empty())
    text_ = api::to_wire({.id = id_, .name = std::string(name_of(event_.kind)), .data = dumped(data_of(event_))});
  return text_;
}

// ---- feeds ----

class EventLog::All final : public EventFeed {
 public:
  /// Begins with the event of number `next` and progress behind the change `seen`. With the log's mutex held.
  All(const EventLog& log, std::uint64_t next, std::uint64_t seen) : log_(log), next_(next), seen_(seen) {}

  /// What the client is told first: that it has lost something, and what runs.
  void greet(std::string lost) {
    lost_ = std::move(lost);
    for (const auto& [id, job] : log_.running_) running_.push_back(job->latest);
  }

  bool is_over() const override { return false; }

  std::string next(Clock::time_point now) override {
    auto text = std::exchange(lost_, {});
    auto events = std::exchange(running_, {});
    {
      std::scoped_lock lock(log_.mutex_);
      if (next_ < log_.first_) {
        text += missed(log_.first_ - next_, "events came faster than they were read, and some are lost; what is "
                                            "running and served now says /v1/status");
        next_ = log_.first_;
      }
      auto end = log_.first_ + log_.ring_.size();
      for (; next_ < end && events.size() < kAtOnce; ++next_) events.push_back(log_.ring_[next_ - log_.first_]);
      // Progress belongs behind the start of its job.
      if (next_ == end && now >= progress_at_) add_progress(events, now);
    }
    return text + text_of(events);
  }

 private:
  void add_progress(std::vector<EventPointer>& events, Clock::time_point now) {
    auto before = events.size();
    for (const auto& [id, job] : log_.running_)
      if (job->change > seen_) events.push_back(job->latest);
    seen_ = log_.changes_;
    if (events.size() > before) progress_at_ = now + log_.limits_.progress_interval;
  }

  const EventLog& log_;
  std::uint64_t next_;
  std::uint64_t seen_;  ///< of EventLog::changes_
  std::string lost_;
  std::vector<EventPointer> running_;
  Clock::time_point progress_at_{};
};

class EventLog::OneJob final : public EventFeed {
 public:
  OneJob(const EventLog& log, std::shared_ptr<const RunningJob> job) : log_(log), job_(std::move(job)) {}

  bool is_over() const override { return over_; }

  std::string next(Clock::time_point now) override {
    EventPointer event;
    {
      std::scoped_lock lock(log_.mutex_);
      if (over_) return {};
      over_ = job_->outcome != nullptr;
      if (!over_ && (now < progress_at_ || job_->latest == last_)) return {};
      event = over_ ? job_->outcome : job_->latest;
    }
    last_ = event;
    progress_at_ = now + log_.limits_.progress_interval;
    return event->text();
  }

 private:
  const EventLog& log_;
  std::shared_ptr<const RunningJob> job_;  ///< guarded by the log's mutex
  EventPointer last_;
  bool over_ = false;
  Clock::time_point progress_at_{};
};

// ---- the log ----

EventLog::EventLog(std::string epoch, Limits limits) : epoch_(std::move(epoch)), limits_(limits) {}

void EventLog::append(EventPointer event) {
  ring_bytes_ += weight_of(event->event());
  ring_.push_back(std::move(event));
  while (ring_.size() > 1 && (ring_.size() > limits_.events || ring_bytes_ > limits_.bytes)) {
    ring_bytes_ -= weight_of(ring_.front()->event());
    ring_.pop_front();
    ++first_;
  }
}

void EventLog::add(const api::Event& event) {
  // Who publishes holds locks: copies are made before ours is taken, and text is made by those who read it.
  if (event.kind == Kind::job_progress) {
    auto latest = std::make_shared<const LoggedEvent>(std::string(), event);
    std::scoped_lock lock(mutex_);
    auto& job = running_[std::get<api::Job>(event.about).id];
    if (!job) job = std::make_shared<RunningJob>();
    job->latest = std::move(latest);
    job->change = ++changes_;
    return;
  }
  {
    std::scoped_lock lock(mutex_);
    auto logged = std::make_shared<const LoggedEvent>(fmt::format("{}-{}", epoch_, first_ + ring_.size()), event);
    append(logged);
    if (event.kind == Kind::job_started) {
      auto job = std::make_shared<RunningJob>();
      job->latest = std::make_shared<const LoggedEvent>(std::string(), api::Event{Kind::job_progress, event.about});
      job->change = changes_;  // the start itself says it all
      running_[std::get<api::Job>(event.about).id] = std::move(job);
    } else if (event.kind == Kind::job_ended) {
      if (auto job = running_.extract(std::get<api::Job>(event.about).id)) job.mapped()->outcome = std::move(logged);
    }
  }
  wake_();
}

std::unique_ptr<EventFeed> EventLog::follow_all(std::string_view last_event_id) {
  std::scoped_lock lock(mutex_);
  auto end = first_ + ring_.size();
  auto last = number_in(last_event_id, epoch_);
  // Progress has no number: who comes back is told the latest of every job, behind the starts that it has missed.
  if (last && *last < end) return std::make_unique<All>(*this, *last + 1, 0);
  auto feed = std::make_unique<All>(*this, end, changes_);
  feed->greet(last_event_id.empty() ? std::string()
                                    : missed(std::nullopt,
                                             "the last event that you name is not one of this daemon's: it was started "
                                             "again, and jobs of its predecessor have ended"));
  return feed;
}

EventPointer EventLog::outcome_in_ring(const std::string& job) const {
  for (const auto& event : std::views::reverse(ring_))
    if (event->event().kind == Kind::job_ended && std::get<api::Job>(event->event().about).id == job) return event;
  return nullptr;
}

std::unique_ptr<EventFeed> EventLog::follow_job(const api::Job& job) {
  auto of = [](Kind kind, const api::Job& about) {
    return std::make_shared<const LoggedEvent>(std::string(), api::Event{kind, about});
  };
  std::scoped_lock lock(mutex_);
  auto found = running_.find(job.id);
  if (found != running_.end() && job.state == "running") return std::make_unique<OneJob>(*this, found->second);
  auto ended = std::make_shared<RunningJob>();
  // It was running when the caller looked, and is not any more.
  ended->outcome = job.state == "running" ? outcome_in_ring(job.id) : of(Kind::job_ended, job);
  if (!ended->outcome) ended->outcome = of(Kind::job_progress, job);
  return std::make_unique<OneJob>(*this, std::move(ended));
}

bool EventLog::is_something_running() const {
  std::scoped_lock lock(mutex_);
  return !running_.empty();
}

}  // namespace ckptd::control
