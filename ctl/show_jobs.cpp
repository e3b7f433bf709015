#include "common/units.h"
#include "ctl/summaries.h"
#include "ctl/table.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

std::string show_done(const Job& job) {
  if (job.total_bytes == 0) return job.done_bytes > 0 ? show_bytes(job.done_bytes) : "";
  return fmt::format("{} / {}", show_bytes(job.done_bytes), show_bytes(job.total_bytes));
}

std::string show_state(const Job& job) {
  return job.state == "running" && job.cancel_requested ? "cancelling" : job.state;
}

/// Times come in whole seconds.
std::string show_took(const Job& job, const View& view) {
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(job.ended.value_or(view.now) - job.started).count();
  if (seconds < 1) return "<1 s";
  return seconds < 60 ? fmt::format("{} s", seconds) : show_seconds(static_cast<double>(seconds));
}

}  // namespace

std::string show_jobs(const std::vector<Job>& jobs, const View& view) {
  if (jobs.empty()) return "no job has run yet; ckptctl load and ckptctl update start one\n";
  Table table{{{"JOB"},
               {"KIND"},
               {"STATE"},
               {"STAGE", true},
               {"DONE", false, true},
               {"STARTED"},
               {"TOOK", false, true},
               {"SUBJECT", true}},
              {}};
  for (const auto& job : jobs)
    table.rows.push_back({job.id, job.kind, show_state(job), job.state == "running" ? job.stage : "", show_done(job),
                          show_age(job.started, view.now), show_took(job, view), job.subject});
  return render(table, view.width, view.utf8);
}

std::string show_job(const Job& job, const View& view) {
  auto out = render_fields({
      {"job", job.id},
      {"kind", job.kind},
      {"subject", job.subject},
      {"state", show_state(job)},
      {"stage", job.stage},
      {"done", show_done(job)},
      {"started", fmt::format("{} ({})", show_age(job.started, view.now), show_time(job.started))},
      {job.ended ? "took" : "running for", show_took(job, view)},
      {"error", job.error ? job.error->sentence : ""},
      {"", job.error ? job.error->vendor : ""},
  });
  if (job.state == "succeeded") out += "\n" + summary_of(job);
  if (job.record) out += "\n" + show_record(*job.record, view);
  return out;
}

}  // namespace ckptd::ctl
