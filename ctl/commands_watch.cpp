// ckptctl watch: what happens, as it happens, across restarts of the daemon.
#include <fmt/chrono.h>

#include <ctime>
#include <map>
#include <nlohmann/json.hpp>

#include "ctl/answers.h"
#include "ctl/commands.h"
#include "ctl/event_line.h"
#include "ctl/interrupts.h"
#include "ctl/progress.h"
#include "ctl/report.h"
#include "ctl/text.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kTryAgain{1};

std::string local_clock() {
  return fmt::format("{:%H:%M:%S}", fmt::localtime(std::time(nullptr)));
}

class Watcher {
 public:
  explicit Watcher(const Context& context) : context_(context), bar_(context.console, context.progress_mode()) {}

  const std::string& last_id() const { return last_id_; }

  void show(const api::WireEvent& wire) {
    last_id_ = wire.id;
    auto data = json::parse(wire.data, nullptr, false);
    if (wire.name == api::kClosing) return;  // the end of the stream says it
    auto event = api::parse_event(wire.name, data);
    if (event && *event) follow(**event);
    bool is_progress = event && *event && (*event)->kind == api::Event::Kind::job_progress;
    if (context_.json)
      print(one_line(json{{"event", wire.name}, {"id", wire.id}, {"data", std::move(data)}}));
    else if (wire.name == api::kMissed)
      say(data.is_object() ? data.value("sentence", std::string("some events are lost")) : "some events are lost");
    else if (event && *event && !is_progress)
      print(event_line(**event, local_clock()));
    show_progress();
  }

  /// A sentence beside the events.
  void say(std::string_view sentence) {
    bar_.finish();
    context_.console.err(fmt::format("ckptctl: {}\n", printable(sentence)));
  }

  /// What ran in a daemon that is gone runs no more.
  void forget_running() {
    bar_.finish();
    running_.clear();
    lines_.clear();
  }

 private:
  void follow(const api::Event& event) {
    const auto* job = std::get_if<api::Job>(&event.about);
    if (job == nullptr) return;
    if (event.kind == api::Event::Kind::job_ended) {
      running_.erase(job->id);
      lines_.erase(job->id);
    } else {
      running_[job->id] = *job;
      changed_ = job->id;
    }
  }

  void print(const std::string& line) {
    bar_.finish();
    context_.console.out(line);
  }

  /// One bar, of the job that was first; without a terminal each job has lines of its own.
  void show_progress() {
    if (running_.empty()) return bar_.finish();
    if (context_.progress_mode() == ProgressMode::bar) {
      auto first = std::ranges::min_element(running_, {}, [](const auto& entry) { return entry.second.started; });
      return bar_.show(first->second);
    }
    auto job = running_.find(changed_);
    if (job == running_.end()) return;
    lines_.try_emplace(changed_, context_.console, context_.progress_mode()).first->second.show(job->second);
  }

  const Context& context_;
  ProgressDisplay bar_;
  std::map<std::string, ProgressDisplay> lines_;  ///< by job
  std::map<std::string, api::Job> running_;
  std::string changed_;
  std::string last_id_;
};

Error explain(Error error) {
  if (error.kind == ErrorKind::not_found)
    error.sentence += "; this ckptd is older than ckptctl and tells no events, see ckptctl job watch";
  return error;
}

}  // namespace

Result<int> run(const Watch& command, const Context& context) {
  Watcher watcher(context);
  bool was_open = false, is_away = false;
  EventSink sink;
  sink.opened = [&] {
    was_open = true;
    if (std::exchange(is_away, false)) watcher.say("the daemon answers again");
  };
  sink.event = [&](const api::WireEvent& event) {
    watcher.show(event);
    return !context.console.out_failed();
  };
  for (;;) {
    auto ended = context.client.follow_all(watcher.last_id(), sink);
    watcher.forget_running();
    if (context.stop.stop_requested() || context.console.out_failed()) return api::kExitSuccess;
    if (!ended && !(was_open && may_come_back(ended.error()))) return std::unexpected(explain(ended.error()));
    if (command.once)
      return fail(ErrorKind::unavailable, "the daemon has ended{}", ended ? "" : " this: " + ended.error().sentence);
    if (!std::exchange(is_away, true))
      watcher.say("the daemon has ended, and jobs with it; waiting for it to come back, Ctrl-C ends this");
    Interrupts::pause(context.stop, kTryAgain);
    if (context.stop.stop_requested()) return api::kExitSuccess;
  }
}

}  // namespace ckptd::ctl
