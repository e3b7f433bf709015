#include "daemon/operations/accounts.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "daemon/records/records.h"
#include "daemon/records/trace.h"

namespace ckptd::operations {
namespace {

/// The history, which has the reason as well, ends with the daemon. A sentence may quote what others wrote: it stays one
/// line of the log.
void log_failure(const std::string& job, const std::string& what, const Error& error) {
  const auto level = error.kind == ErrorKind::cancelled ? spdlog::level::info : spdlog::level::warn;
  spdlog::log(level, "{}: {}: {}", job, what, shown(error.sentence, error.sentence.size()));
}

/// Once the engine was asked for its answer, write_failure() has logged what became of it, and why.
bool was_logged(const records::PushAccount& push) {
  return std::ranges::any_of(push.steps.all(), [](const auto& step) { return step.name == "answer"; });
}

}  // namespace

records::JobAccount open_account(std::string id, std::string kind, std::string subject) {
  records::JobAccount account;
  account.id = std::move(id);
  account.kind = std::move(kind);
  account.subject = std::move(subject);
  account.started = std::chrono::system_clock::now();
  account.begin = account.end = Clock::now();
  return account;
}

records::PushAccount open_account(const EnginePush& push) {
  records::PushAccount account;
  account.engine = push.engine;
  account.bucket_bytes = push.bucket_bytes;
  account.begin = account.end = Clock::now();
  for (const auto* device : push.devices) account.devices.push_back(device->identity().uuid);
  return account;
}

void close_account(records::JobAccount& account, const Result<std::string>& result) {
  account.end = Clock::now();
  account.state = result                                             ? "succeeded"
                  : result.error().kind == ErrorKind::cancelled ? "cancelled"
                                                                     : "failed";
}

void close_account(records::PushAccount& account, const Result<nlohmann::json>& report) {
  account.end = Clock::now();
  account.steps.end(account.end);
  if (!report) account.error = report.error();
}

void close_account(records::LoadAccount& account, const Result<std::string>& result,
                   const std::optional<jobs::Record>& job) {
  account.steps.end();
  if (!result) account.error = result.error();
  if (!job) return;
  for (const auto& stage : job->stages) account.told.push_back({stage.name, stage.seconds, stage.bytes});
}

void note_read(records::LoadAccount& account, std::uint64_t read_bytes) {
  if (read_bytes == account.read_bytes) return;
  account.read_bytes = read_bytes;
  account.last_read = Clock::now();
}

void note_plan(records::PushAccount& account, const plan::Plan& plan) {
  account.tensor_bytes = plan.tensor_bytes;
  account.buckets = plan.buckets.size();
  account.arena_bytes = plan.arena_bytes;
  account.copy_runs = plan.copy_runs;
  account.fan_out = plan::name_of(plan.fan_out);
  if (plan.fan_out == plan::FanOut::broadcast)
    for (const auto& bucket : plan.buckets) account.owners.push_back(bucket.owner);
}

void note_push(records::PushAccount& account, const pipeline::Report& report, const pipeline::Progress& progress) {
  account.connected = progress.connected;
  account.reloaded_bytes = progress.reloaded_bytes;
  account.touched = progress.touched;
  account.lanes = report.lanes;
}

records::Peaks Service::peaks() const {
  records::Peaks known;
  for (const auto& peak : parts_.peaks.all()) {
    if (peak.stage == "copy") known.copy[peak.device] = peak.bytes_per_second;
    if (peak.stage == "spread") known.spread[peak.device] = peak.bytes_per_second;
    if (peak.stage == "hash") known.hash = peak.bytes_per_second;
  }
  return known;
}

void Service::keep_record(const records::JobAccount& job, const records::LoadAccount& load) {
  if (load.error) log_failure(job.id, job.subject, *load.error);
  auto record = records::load_record(job, load, peaks());
  spdlog::info("record: {}", records::in_one_line(record));
  archive_.keep(std::move(record), records::load_trace(job, load));
}

void Service::keep_record(const records::JobAccount& job, const std::vector<records::PushAccount>& pushes) {
  for (const auto& push : pushes)
    if (push.error && !was_logged(push)) log_failure(job.id, push.engine, *push.error);
  auto record = records::update_record(job, pushes, peaks());
  spdlog::info("record: {}", records::in_one_line(record));
  archive_.keep(std::move(record), records::update_trace(job, pushes));
}

api::Job Service::with_record(api::Job job) const {
  if (const auto record = archive_.record(job.id); record && job.state != "running") job.record = *record;
  return job;
}

Result<api::Trace> Service::trace(const std::string& id) const {
  const auto job = CKPTD_TRY(this->job(id));
  if (job.state == "running")
    return std::unexpected(
        Error{ErrorKind::busy, fmt::format("{} is still running, and its trace is made when it has ended: wait for it "
                                           "(ckptctl wait job/{})",
                                           id, id)}
            .with_fact("job", id));
  if (const auto trace = archive_.trace(id)) return *trace;
  if (job.kind == "probe") return fail(ErrorKind::not_found, "{} is a probe, and a probe has no trace", id);
  if (job.kind == "verify") return fail(ErrorKind::not_found, "{} is a verification, and that has no trace", id);
  return fail(ErrorKind::not_found,
              "the trace of {} is no longer kept: newer jobs needed its memory (jobs.record_memory, see "
              "docs/configuration.md)",
              id);
}

}  // namespace ckptd::operations
