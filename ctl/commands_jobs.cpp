// Everything that starts a job, follows one or ends one.
#include "common/deadline.h"
#include "ctl/commands.h"
#include "ctl/report.h"
#include "ctl/text.h"
#include "ctl/wait_job.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

std::string how_to_follow(const api::Job& job) {
  auto id = printable(job.id);
  return fmt::format("watch it with 'ckptctl job watch {}', end it with 'ckptctl job cancel {}'", id, id);
}

int detach(const Answer<api::Job>& job, const Context& context) {
  context.console.err(fmt::format("ckptctl: detached; job {} ({}) goes on: {}\n", printable(job.value.id),
                                  printable(job.value.subject), how_to_follow(job.value)));
  if (context.json) context.print(job.json, {});
  return api::kExitDetached;
}

Result<int> follow(Answer<api::Job> job, std::optional<Deadline> deadline, const Context& context) {
  ProgressDisplay display(context.console, context.progress_mode());
  auto waited = wait_for_job(context.client, std::move(job), deadline, context.stop, display);
  display.finish();
  if (!waited) return std::unexpected(std::move(waited).error());
  if (waited->detached) return detach(waited->last, context);
  if (waited->last.value.state != "succeeded") return std::unexpected(error_of(waited->last.value));
  context.print(waited->last.json, summary_of(waited->last.value));
  return api::kExitSuccess;
}

Result<int> follow_or_detach(Answer<api::Job> job, bool detach_at_once, const Context& context) {
  if (!detach_at_once || has_ended(job.value)) return follow(std::move(job), std::nullopt, context);
  context.print(job.json, fmt::format("job {} runs: {}\n", printable(job.value.id), how_to_follow(job.value)));
  return api::kExitSuccess;
}

}  // namespace

void Context::print(const nlohmann::json& answer, const std::string& text) const {
  console.out(json ? one_line(answer) : text);
}

ProgressMode Context::progress_mode() const {
  if (console.can_redraw()) return ProgressMode::bar;
  return json ? ProgressMode::silent : ProgressMode::lines;
}

Result<int> run(const Load& command, const Context& context) {
  return follow_or_detach(CKPTD_TRY(context.client.load(command.request)), command.detach, context);
}

Result<int> run(const Update& command, const Context& context) {
  if (!command.request.dry_run)
    return follow_or_detach(CKPTD_TRY(context.client.update(command.request)), command.detach, context);
  auto preview = CKPTD_TRY(context.client.preview_update(command.request));
  context.print(preview.json, show_preview(preview.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ListJobs&, const Context& context) {
  auto jobs = CKPTD_TRY(context.client.jobs());
  context.print(jobs.json, show_jobs(jobs.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ShowJob& command, const Context& context) {
  auto job = CKPTD_TRY(context.client.job(command.id));
  context.print(job.json, show_job(job.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const WatchJob& command, const Context& context) {
  return follow(CKPTD_TRY(context.client.job(command.id)), std::nullopt, context);
}

Result<int> run(const CancelJob& command, const Context& context) {
  auto job = CKPTD_TRY(context.client.cancel_job(command.id, command.force));
  auto id = printable(job.value.id);
  context.print(job.json,
                has_ended(job.value)
                    ? fmt::format("job {} has ended: {}\n", id, printable(job.value.state))
                    : fmt::format("job {} was asked to end; see it end with 'ckptctl job watch {}'\n", id, id));
  return api::kExitSuccess;
}

Result<int> run(const WaitForJob& command, const Context& context) {
  auto deadline = Deadline::in(command.timeout);
  return follow(CKPTD_TRY(context.client.job(command.id)), deadline, context);
}

}  // namespace ckptd::ctl
