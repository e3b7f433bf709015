#include "ctl/wait_job.h"

#include <algorithm>

#include "common/units.h"
#include "ctl/interrupts.h"

namespace ckptd::ctl {
namespace {

constexpr auto kPoll = std::chrono::seconds(1);
constexpr auto kShortestRound = std::chrono::milliseconds(100);

Error about(Error error, const std::string& job) {
  bool told = std::ranges::any_of(error.facts, [](const auto& fact) { return fact.first == "job"; });
  return told ? error : std::move(error).with_fact("job", job);
}

/// Ids start again with the daemon, so an id alone does not say that this is our job.
bool is_same(const api::Job& a, const api::Job& b) {
  return a.id == b.id && a.kind == b.kind && a.subject == b.subject && a.started == b.started;
}

Error lost(const api::Job& job, std::string_view how) {
  return about({ErrorKind::unavailable,
                fmt::format("{} while we waited for job {} ({}): a job ends with its daemon. When 'ckptctl status' "
                            "answers again, see what is loaded and served, and repeat the command",
                            how, job.id, job.subject)},
               job.id);
}

Error why_waiting_failed(const Error& error, const api::Job& job) {
  if (error.kind == ErrorKind::unavailable) return lost(job, "the connection to the daemon was lost");
  if (error.kind == ErrorKind::not_found) return lost(job, "the daemon was restarted");
  return about(error.within(fmt::format("waiting for job {}", job.id)), job.id);
}

Error deadline_passed(const api::Job& job) {
  return about({ErrorKind::timed_out,
                fmt::format("job {} is still running ({}: {} of {}) and goes on; watch it with "
                            "'ckptctl job watch {}'",
                            job.id, job.stage, show_bytes(job.done_bytes), show_bytes(job.total_bytes), job.id)},
               job.id);
}

/// The job as the daemon's events tell of it, as long as they do. Why they ended shows who asks again.
Answer<api::Job> follow_events(const Client& client, Answer<api::Job> job, std::optional<Deadline> deadline,
                               ProgressDisplay& display) {
  EventSink sink;
  sink.event = [&](const api::WireEvent& event) {
    auto data = nlohmann::json::parse(event.data, nullptr, false);
    auto told = api::parse_event(event.name, data);
    if (!told || !*told) return true;
    auto* now = std::get_if<api::Job>(&(*told)->about);
    if (now == nullptr || !is_same(*now, job.value)) return false;
    job = {std::move(data), std::move(*now)};
    if (!has_ended(job.value)) display.show(job.value);
    return !has_ended(job.value);
  };
  const auto id = job.value.id;  // the sink replaces the job
  (void)client.follow_job(id, sink, deadline.value_or(Deadline(Clock::time_point::max())));
  return job;
}

/// Whole seconds of long poll that fit before the deadline; 0 asks for the state as it is.
std::chrono::seconds poll_before(const std::optional<Deadline>& deadline) {
  if (!deadline || deadline->at() - Clock::now() >= kPoll) return kPoll;
  return std::chrono::seconds(0);
}

}  // namespace

bool has_ended(const api::Job& job) {
  return job.state == "succeeded" || job.state == "failed" || job.state == "cancelled";
}

Result<Waited> wait_for_job(const Client& client, Answer<api::Job> job, std::optional<Deadline> deadline,
                            std::stop_token stop, ProgressDisplay& display) {
  if (!has_ended(job.value) && !(deadline && deadline->passed())) {
    display.show(job.value);
    job = follow_events(client, std::move(job), deadline, display);
  }
  while (!has_ended(job.value)) {
    display.show(job.value);
    if (stop.stop_requested()) return Waited{std::move(job), true};
    if (deadline && deadline->passed()) return std::unexpected(deadline_passed(job.value));
    auto round_end = Deadline::in(kShortestRound);
    auto next = client.job(job.value.id, poll_before(deadline));
    if (stop.stop_requested()) return Waited{next ? *std::move(next) : std::move(job), true};
    if (!next) return std::unexpected(why_waiting_failed(next.error(), job.value));
    if (!is_same(next->value, job.value)) return std::unexpected(lost(job.value, "the daemon was restarted"));
    job = *std::move(next);
    if (!has_ended(job.value)) Interrupts::pause(stop, std::chrono::milliseconds(round_end.poll_timeout_ms()));
  }
  return Waited{std::move(job), false};
}

Error error_of(const api::Job& job) {
  if (job.error) return about(*job.error, job.id);
  if (job.state == "cancelled")
    return about({ErrorKind::cancelled, fmt::format("job {} ({}) was cancelled", job.id, job.subject)}, job.id);
  return about(
      {ErrorKind::internal, fmt::format("job {} ({}) failed and the daemon gave no reason", job.id, job.subject)},
      job.id);
}

}  // namespace ckptd::ctl
