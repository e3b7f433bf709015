// Everything that starts a job, follows one or ends one.
#include <cerrno>
#include <fstream>

#include "common/deadline.h"
#include "ctl/commands.h"
#include "ctl/interrupts.h"
#include "ctl/report.h"
#include "ctl/text.h"
#include "ctl/trace_page.h"
#include "ctl/wait_job.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

std::string how_to_follow(const api::Job& job) {
  auto id = printable(job.id);
  return fmt::format("watch it with 'ckptctl job watch {}', end it with 'ckptctl job cancel {}'", id, id);
}

/// Into the file itself and not beside it: somebody may write to a pipe or to /dev/stdout.
Result<> write_file(const std::string& path, std::string_view content) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (file) return {};
  return std::unexpected(system_error(errno != 0 ? errno : EIO, fmt::format("write {}", path)));
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
  context.print(waited->last.json, summary_of(waited->last.value) + verdict_of(waited->last.value));
  return api::kExitSuccess;
}

Result<int> follow_or_detach(Answer<api::Job> job, bool detach_at_once, const Context& context) {
  if (!detach_at_once || has_ended(job.value)) return follow(std::move(job), std::nullopt, context);
  context.print(job.json, fmt::format("job {} runs: {}\n", printable(job.value.id), how_to_follow(job.value)));
  return api::kExitSuccess;
}

/// Prints what there is to hand to the engines, and leaves: the job ends when whoever calls them has been served.
Result<int> hand_out(Answer<api::Job> job, const Context& context) {
  while (!has_ended(job.value) && job.value.engines.empty()) {
    if (context.stop.stop_requested()) return detach(job, context);
    Interrupts::pause(context.stop, std::chrono::milliseconds(200));
    job = CKPTD_TRY(context.client.job(job.value.id));
  }
  if (has_ended(job.value)) return follow(std::move(job), std::nullopt, context);
  context.print(job.json, show_handles(job.value));
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
  if (command.request.external && !command.request.dry_run)
    return hand_out(CKPTD_TRY(context.client.update(command.request)), context);
  if (!command.request.dry_run)
    return follow_or_detach(CKPTD_TRY(context.client.update(command.request)), command.detach, context);
  auto preview = CKPTD_TRY(context.client.preview_update(command.request));
  context.print(preview.json, show_preview(preview.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const RollBack& command, const Context& context) {
  return follow_or_detach(CKPTD_TRY(context.client.roll_back(command.request)), command.detach, context);
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

Result<int> run(const TraceJob& command, const Context& context) {
  const auto trace = CKPTD_TRY(context.client.trace(command.id));
  if (command.output.empty() && command.html.empty()) {
    context.console.out(one_line(trace));
    return api::kExitSuccess;
  }
  nlohmann::json written = nlohmann::json::object();
  std::string told;
  if (!command.output.empty()) {
    CKPTD_TRY(write_file(command.output, one_line(trace)));
    written["output"] = command.output;
    told += fmt::format("wrote {}: open it in https://ui.perfetto.dev or chrome://tracing\n", printable(command.output));
  }
  if (!command.html.empty()) {
    const auto job = CKPTD_TRY(context.client.job(command.id));
    CKPTD_TRY(write_file(command.html, trace_page(job.json, trace)));
    written["html"] = command.html;
    told += fmt::format("wrote {}: open it in a browser\n", printable(command.html));
  }
  context.print(written, told);
  return api::kExitSuccess;
}

Result<int> run(const Probe&, const Context& context) {
  return follow(CKPTD_TRY(context.client.probe()), std::nullopt, context);
}

Result<int> run(const VerifyEngine& command, const Context& context) {
  return follow(CKPTD_TRY(context.client.verify(command.name)), std::nullopt, context);
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
