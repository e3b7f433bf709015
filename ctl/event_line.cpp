#include "ctl/event_line.h"

#include "common/units.h"
#include "ctl/summaries.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using namespace proto::control;

struct Words {
  std::string subject, what, detail;
};

/// The first line of a summary; what follows it belongs to `ckptctl job show`.
std::string headline(const Job& job) {
  auto text = summary_of(job);
  text.erase(std::min(text.find('\n'), text.size()));
  if (text.ends_with(':')) text.pop_back();
  return text;
}

Words words_of(const Job& job, Event::Kind kind) {
  if (kind == Event::Kind::job_started) return {job.id, "started", job.subject};
  if (kind == Event::Kind::job_progress) return {job.id, "running", job.stage};
  if (job.state == "succeeded") return {job.id, job.state, headline(job)};
  return {job.id, job.state, job.error ? job.error->sentence : job.subject};
}

Words words_of(const Engine& engine, Event::Kind kind) {
  auto subject = "engine " + engine.name;
  if (kind == Event::Kind::engine_removed) return {subject, "removed", ""};
  if (engine.state == "updating") {
    return {subject, engine.state, engine.job.empty() ? "" : "by " + engine.job};
  }
  if (engine.state == "poisoned") return {subject, engine.state, engine.poisoned};
  if (engine.state != "serving" && !engine.why.empty()) return {subject, engine.state, engine.why};
  return {subject, engine.state, engine.serving.empty() ? "serves nothing of ours yet" : "serves " + engine.serving};
}

Words words_of(const Version& version, Event::Kind kind) {
  auto subject = version.name + "@" + version.version;
  if (kind == Event::Kind::version_removed) return {subject, "forgotten", ""};
  if (version.state == "loading") return {subject, version.state, version.job.empty() ? "" : "by " + version.job};
  if (version.state == "resident")
    return {subject, version.state, show_bytes(version.tensor_bytes) + (version.kept ? ", kept" : "")};
  return {subject, version.state, version.error ? version.error->sentence : ""};
}

}  // namespace

std::string event_line(const Event& event, std::string_view clock) {
  auto words = std::visit([&](const auto& value) { return words_of(value, event.kind); }, event.about);
  auto line = fmt::format("{}  {:<14} {:<10} {}", clock, printable(words.subject), printable(words.what),
                          printable(words.detail));
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace ckptd::ctl
