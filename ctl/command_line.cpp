#include "ctl/command_line.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <sstream>
#include <vector>

#include "common/units.h"
#include "common/version.h"
#include "ctl/completion.h"
#include "ctl/source_uri.h"

namespace ckptd::ctl {
namespace {

constexpr const char* kExamples = R"(Examples:
  ckptctl load Qwen/Qwen3-8B@base /models/Qwen3-8B --keep
  ckptctl engine add sglang-0 --kind sglang --endpoint http://127.0.0.1:30000 --checkpoint Qwen/Qwen3-8B
  ckptctl update Qwen/Qwen3-8B@base --dry-run
  ckptctl update Qwen/Qwen3-8B@base
  ckptctl status
  ckptctl --json job list | jq -r '.jobs[].id'

ckptctl(1) lists the exit codes.)";

constexpr std::chrono::hours kLongestWait{365 * 24};  ///< as in the configuration: a deadline must not overflow its clock

/// Everything that options write into, before it is a Command. One command is chosen, so members may be shared.
struct Typed {
  std::string socket, checkpoint, directory, idempotency_key, bucket_size, name, id, subject, serving, output, html;
  std::string timeout = "30s", policy = "availability";
  std::vector<std::string> engines;
  api::EngineRequest engine;
  std::string target, pause, on_failure, weight_version, trigger = "ckptd";
  std::optional<std::uint64_t> max_unavailable, sessions;
  bool no_follow = false, all = false;
  bool json = false, keep = false, detach = false, dry_run = false, force = false, keep_cache = false, tensors = false,
       forget = false, once = false;
  std::string shell;
  std::function<Result<Command>()> finish;         ///< of the chosen command
  std::map<const CLI::Option*, Stands> meanings;   ///< how a value is completed; not here: freely
};

/// Says what the value of an option or argument stands for.
CLI::Option* stands_for(Stands what, Typed& typed, CLI::Option* option) {
  typed.meanings[option] = what;
  return option;
}

/// A variable that a script has not set must not pass for an option that was not given.
std::string is_not_empty(const std::string& value) { return value.empty() ? "is empty; is a variable not set?" : ""; }

/// An option whose value is a whole number in decimal digits. CLI11's own reading takes "-1" for the largest number that
/// there is, a number that is too large for the same, and "010" for eight.
CLI::Option* add_number(CLI::App* app, const char* name, std::optional<std::uint64_t>& into, const char* help) {
  const auto read = [name, &into](const std::string& text) {
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool octal = text.size() > 1 && text.starts_with('0');
    if (error != std::errc{} || rest != text.data() + text.size() || octal)
      throw CLI::ValidationError(name, fmt::format("'{}' is no whole number from 0: write it in decimal digits, as in 2", text));
    into = number;
  };
  return app->add_option_function<std::string>(name, read, help)->type_name("NUMBER");
}

Result<CheckpointName> split_checkpoint(const std::string& text) {
  auto at = text.find('@');
  if (at == std::string::npos || at == 0 || at + 1 == text.size() || text.find('@', at + 1) != std::string::npos)
    return fail(ErrorKind::invalid_argument, "'{}' is no NAME@VERSION: write it as in Qwen/Qwen3-8B@step-120", text);
  return CheckpointName{text.substr(0, at), text.substr(at + 1)};
}

Result<Command> finish_load(const Typed& typed) {
  auto checkpoint = CKPTD_TRY(split_checkpoint(typed.checkpoint));
  auto uri = CKPTD_TRY(source_uri(typed.directory));
  auto policy = api::load_policy_named(typed.policy);
  if (!policy)
    return fail(ErrorKind::invalid_argument, "'{}' is no policy of a load: write availability or resource", typed.policy);
  return Load{{.name = checkpoint.name,
               .version = checkpoint.version,
               .source_uri = uri,
               .keep = typed.keep,
               .idempotency_key = typed.idempotency_key,
               .policy = *policy},
              typed.detach};
}

Result<Command> finish_update(const Typed& typed) {
  auto checkpoint = CKPTD_TRY(split_checkpoint(typed.checkpoint));
  api::UpdateRequest request{.name = checkpoint.name,
                             .version = checkpoint.version,
                             .engines = typed.engines,
                             .dry_run = typed.dry_run,
                             .force = typed.force,
                             .bucket_bytes = std::nullopt,
                             .weight_version = typed.weight_version,
                             .idempotency_key = typed.idempotency_key};
  if (typed.keep_cache) request.flush_cache = false;
  if (!typed.pause.empty()) request.pause = typed.pause;
  if (!typed.on_failure.empty()) request.on_failure = typed.on_failure;
  request.max_unavailable = typed.max_unavailable;
  if (typed.trigger != "ckptd" && typed.trigger != "external")
    return fail(ErrorKind::invalid_argument, "'{}' is nobody who triggers an update: write ckptd or external",
                typed.trigger);
  request.external = typed.trigger == "external";
  request.sessions = typed.sessions;
  if (typed.sessions && !request.external)
    return fail(ErrorKind::invalid_argument, "--sessions goes with --trigger external: otherwise the engine's answer ends "
                                             "the update");
  if (!typed.bucket_size.empty()) request.bucket_bytes = CKPTD_TRY(parse_bytes(typed.bucket_size));
  return Update{std::move(request), typed.detach};
}

Result<Command> finish_wait(const Typed& typed) {
  auto timeout = CKPTD_TRY(parse_duration(typed.timeout));
  if (timeout > kLongestWait)
    return fail(ErrorKind::invalid_argument, "--timeout: '{}' is longer than a year: write at most {}h", typed.timeout,
                kLongestWait.count());
  auto slash = typed.subject.find('/');
  auto kind = typed.subject.substr(0, slash);
  auto name = slash == std::string::npos ? "" : typed.subject.substr(slash + 1);
  if (!name.empty() && kind == "engine")
    return WaitForEngine{name, typed.serving.empty() ? std::nullopt : std::optional(typed.serving), timeout};
  if (!name.empty() && kind == "job" && typed.serving.empty()) return WaitForJob{name, timeout};
  if (kind == "job" && !typed.serving.empty())
    return fail(ErrorKind::invalid_argument, "--serving goes with engine/NAME, and this waits for '{}'", typed.subject);
  return fail(ErrorKind::invalid_argument, "'{}' is nothing to wait for: write job/ID or engine/NAME", typed.subject);
}

/// What turns `typed` into a Command once the whole line was understood and this was the chosen command.
template <class Make>
void on_finish(CLI::App* app, Typed& typed, Make make) {
  app->final_callback([&typed, make] { typed.finish = [&typed, make]() -> Result<Command> { return make(typed); }; });
}

/// A command whose only argument is NAME@VERSION.
template <class Make>
void on_checkpoint(CLI::App* app, Typed& typed, Make make) {
  stands_for(Stands::version, typed, app->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION"))
      ->required();
  on_finish(app, typed, [make](const Typed& chosen) -> Result<Command> {
    return make(CKPTD_TRY(split_checkpoint(chosen.checkpoint)), chosen);
  });
}

void add_start_of_job(CLI::App* app, Typed& typed) {
  app->add_flag("--detach", typed.detach, "print the job and return at once");
  app->add_option("--idempotency-key", typed.idempotency_key,
                  "a word of your own: repeating the command with the same one repeats nothing")
      ->check(is_not_empty, "");
}

void add_load_and_update(CLI::App& app, Typed& typed) {
  auto* load = app.add_subcommand("load", "read a version from a directory into host memory");
  stands_for(Stands::version, typed, load->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION"))
      ->required();
  stands_for(Stands::directory, typed,
             load->add_option("directory", typed.directory, "a directory of safetensors files, or a URI"))
      ->required();
  load->add_flag("--keep", typed.keep, "never evict it to make room");
  load->add_option("--policy", typed.policy,
                   "what may leave for it: availability spares what engines have, resource gives NAME's over")
      ->capture_default_str();
  add_start_of_job(load, typed);
  on_finish(load, typed, finish_load);

  auto* update = app.add_subcommand("update", "bring engines to a loaded version");
  stands_for(Stands::version, typed, update->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION"))
      ->required();
  stands_for(Stands::engine, typed,
             update->add_option("--engine", typed.engines,
                                "only this engine; may be repeated. Default: all whose checkpoint is NAME"))
      ->allow_extra_args(false);
  update->add_flag("--dry-run", typed.dry_run, "only show what it would do");
  update->add_flag("--force", typed.force,
                   "even if names, shapes or dtypes differ from what an engine serves, or it is known to load this wrongly; "
                   "remembered with its target");
  update->add_option("--bucket-size", typed.bucket_size,
                     "bytes of a bucket, as in 512MiB. Default: the daemon's choice");
  update->add_flag("--keep-cache", typed.keep_cache, "do not ask the engines to flush their cache");
  update->add_option("--pause", typed.pause,
                     "what becomes of requests meanwhile: none, abort, retract, in_place, keep, wait or auto. Default: as "
                     "each engine is registered");
  update->add_option("--on-failure", typed.on_failure,
                     "of an update that leaves a mixture: repush (the last good version, once) or hold. Default: as each "
                     "engine is registered");
  update->add_option("--weight-version", typed.weight_version, "the label that engines tell, remembered with their target. Default: VERSION");
  add_number(update, "--max-unavailable", typed.max_unavailable,
             "how many of the engines that serve may be out of service at once; 0: all. Default: 1 when several serve");
  update->add_option("--trigger", typed.trigger,
                     "who calls the engines: ckptd; or external, who is given the endpoints for that and does all else")
      ->capture_default_str();
  add_number(update, "--sessions", typed.sessions,
             "of an external trigger: how many sessions each rank opens, as for draft models. Default: 1");
  add_start_of_job(update, typed);
  on_finish(update, typed, finish_update);
}

void add_checkpoints(CLI::App& app, Typed& typed) {
  on_finish(app.add_subcommand("list", "list the versions"), typed, [](const Typed&) { return ListVersions{}; });
  on_finish(app.add_subcommand("status", "show daemon, store, devices, engines and jobs"), typed,
            [](const Typed&) { return ShowStatus{}; });
  on_finish(app.add_subcommand("reload", "have the daemon read its configuration again"), typed,
            [](const Typed&) { return Reload{}; });

  auto* show = app.add_subcommand("show", "show one version");
  show->add_flag("--tensors", typed.tensors, "with its tensors");
  on_checkpoint(show, typed,
                [](CheckpointName name, const Typed& chosen) { return ShowVersion{std::move(name), chosen.tensors}; });
  auto* evict = app.add_subcommand("evict", "give a version's memory back to the store");
  evict->add_flag("--forget", typed.forget, "forget its record and identity as well");
  on_checkpoint(evict, typed,
                [](CheckpointName name, const Typed& chosen) { return Evict{std::move(name), chosen.forget}; });
  on_checkpoint(app.add_subcommand("keep", "protect a version from eviction"), typed,
                [](CheckpointName name, const Typed&) { return SetKept{std::move(name), true}; });
  on_checkpoint(app.add_subcommand("unkeep", "lift that protection"), typed,
                [](CheckpointName name, const Typed&) { return SetKept{std::move(name), false}; });
  on_finish(app.add_subcommand("probe", "measure what this machine can do at best, for job show to compare with"), typed,
            [](const Typed&) { return Probe{}; });
  on_finish(app.add_subcommand("trim", "give idle memory of the store, kept arenas and idle NCCL communicators back to the system"), typed,
            [](const Typed&) { return Trim{}; });
}

void add_jobs(CLI::App& app, Typed& typed) {
  auto* job = app.add_subcommand("job", "list, show, watch, trace and cancel jobs")->require_subcommand(1);
  on_finish(job->add_subcommand("list", "list running and finished jobs"), typed,
            [](const Typed&) { return ListJobs{}; });
  auto* show = job->add_subcommand("show", "show one job");
  stands_for(Stands::job, typed, show->add_option("id", typed.id, "the job, as in load-17"))->required();
  on_finish(show, typed, [](const Typed& chosen) { return ShowJob{chosen.id}; });
  auto* watch = job->add_subcommand("watch", "wait for the end of a job and show its progress");
  stands_for(Stands::job, typed, watch->add_option("id", typed.id, "the job, as in load-17"))->required();
  on_finish(watch, typed, [](const Typed& chosen) { return WatchJob{chosen.id}; });
  auto* trace = job->add_subcommand("trace", "write what happened when, for ui.perfetto.dev or as a page of its own");
  stands_for(Stands::job, typed, trace->add_option("id", typed.id, "the job, as in update-18"))->required();
  stands_for(Stands::file, typed, trace->add_option("--output", typed.output, "file for the JSON instead of stdout"));
  stands_for(Stands::file, typed,
             trace->add_option("--html", typed.html, "file for a page that any browser opens, without a network"));
  on_finish(trace, typed, [](const Typed& chosen) { return TraceJob{chosen.id, chosen.output, chosen.html}; });
  auto* cancel = job->add_subcommand("cancel", "ask a job to end");
  stands_for(Stands::job, typed, cancel->add_option("id", typed.id, "the job, as in load-17"))->required();
  cancel->add_flag("--force", typed.force,
                   "even an update that has begun to send weights: its engines become poisoned");
  on_finish(cancel, typed, [](const Typed& chosen) { return CancelJob{chosen.id, chosen.force}; });
}

std::string kinds_help() { return fmt::format("what it is: {}", fmt::join(api::kEngineKinds, ", ")); }

/// Somebody who writes the key itself is told so at once, and it goes no further. A file that we may not see is left to
/// the daemon to judge.
std::string key_file_complaint(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error) || error) return {};
  return "wants the path of a file that holds the key, and there is no file of that name";
}

void add_engines(CLI::App& app, Typed& typed) {
  auto* engine = app.add_subcommand("engine", "add, list, show and remove engines")->require_subcommand(1);
  auto* add = engine->add_subcommand("add", "record an engine, or change its record");
  add->add_option("name", typed.engine.name, "a name for the engine")->required();
  stands_for(Stands::engine_kind, typed, add->add_option("--kind", typed.engine.kind, kinds_help()))
      ->required();
  add->add_option("--endpoint", typed.engine.endpoint, "where it listens: http://HOST:PORT or unix:PATH")->required();
  stands_for(Stands::checkpoint, typed,
             add->add_option("--checkpoint", typed.engine.checkpoint, "the NAME whose versions it serves"))
      ->required();
  stands_for(Stands::device, typed,
             add->add_option("--devices", typed.engine.devices,
                             "the devices of its ranks, separated by commas. Default: all"))
      ->delimiter(',')
      ->allow_extra_args(false);
  const auto is_file = [](const std::string& path) { return key_file_complaint(path); };
  stands_for(Stands::file, typed,
             add->add_option("--api-key-file", typed.engine.api_key_file,
                             "file, readable for the daemon, that holds the engine's API key"))
      ->check(is_file, "FILE");
  stands_for(Stands::file, typed,
             add->add_option("--admin-key-file", typed.engine.admin_key_file,
                             "file that holds the key of its administrative routes (SGLang's --admin-api-key)"))
      ->check(is_file, "FILE");
  add->add_option("--transfer", typed.engine.transfer,
                  "how a vLLM is given weights: native, checkpoint-engine, or auto: native where the server offers it")
      ->check(CLI::IsMember(std::vector<std::string>(proto::control::kTransfers.begin(), proto::control::kTransfers.end())));
  stands_for(Stands::version, typed,
             add->add_option("--target", typed.engine.target,
                             "NAME@VERSION that it should serve, if nothing was said of that yet"));
  add->add_flag("--no-follow", typed.no_follow, "never bring it to its target without being asked");
  add->add_option("--wake", typed.engine.wake,
                  "what an update wakes of it when it sleeps: none, weights or all")
      ->capture_default_str();
  add->add_option("--pause", typed.engine.pause,
                  "what becomes of its requests during an update: none, abort, retract, in_place, keep, wait or auto")
      ->capture_default_str();
  add->add_flag("--keep-cache", typed.keep_cache, "its cache is not flushed after an update");
  add->add_option("--on-failure", typed.engine.on_failure,
                  "of an update that leaves a mixture: repush (the last good version, once) or hold")
      ->capture_default_str();
  on_finish(add, typed, [](const Typed& chosen) {
    auto request = chosen.engine;
    request.follow = !chosen.no_follow;
    request.flush_cache = !chosen.keep_cache;
    for (auto* path : {&request.api_key_file, &request.admin_key_file})
      if (!path->empty()) *path = std::filesystem::absolute(*path).lexically_normal().string();
    return AddEngine{std::move(request)};
  });
  auto* set = engine->add_subcommand("set", "move an engine's target; it is brought there by itself");
  stands_for(Stands::engine, typed, set->add_option("name", typed.name, "the engine"))->required();
  stands_for(Stands::version, typed, set->add_option("--target", typed.target, "NAME@VERSION that it should serve"))
      ->required();
  on_finish(set, typed, [](const Typed& chosen) { return SetEngine{chosen.name, {chosen.target}}; });
  on_finish(engine->add_subcommand("list", "list the engines"), typed, [](const Typed&) { return ListEngines{}; });
  auto* show = engine->add_subcommand("show", "show one engine");
  stands_for(Stands::engine, typed, show->add_option("name", typed.name, "the engine"))->required();
  on_finish(show, typed, [](const Typed& chosen) { return ShowEngine{chosen.name}; });
  auto* remove = engine->add_subcommand("remove", "forget an engine; the engine itself is left alone");
  stands_for(Stands::engine, typed, remove->add_option("name", typed.name, "the engine"))->required();
  on_finish(remove, typed, [](const Typed& chosen) { return RemoveEngine{chosen.name}; });
}

Result<Command> finish_drain(const Typed& typed, bool drained) {
  if (typed.all && !typed.name.empty())
    return fail(ErrorKind::invalid_argument, "--all is the node with all its engines: leave '{}' out", typed.name);
  if (!typed.all && typed.name.empty())
    return fail(ErrorKind::invalid_argument, "name an engine, or write --all for the node with all its engines");
  return SetDrained{typed.name, drained};
}

void add_service(CLI::App& app, Typed& typed) {
  auto* rollback = app.add_subcommand("rollback", "bring engines back to what they were given before");
  stands_for(Stands::engine, typed,
             rollback->add_option("--engine", typed.engines,
                                  "only this engine; may be repeated. Default: all that can go back"))
      ->allow_extra_args(false);
  rollback->add_flag("--force", typed.force,
                     "even if names, shapes or dtypes differ from what an engine serves, or it is known to load this wrongly");
  add_start_of_job(rollback, typed);
  on_finish(rollback, typed, [](const Typed& chosen) {
    return RollBack{{.engines = chosen.engines, .force = chosen.force, .idempotency_key = chosen.idempotency_key},
                    chosen.detach};
  });
  auto* verify = app.add_subcommand("verify", "compare what an engine holds, as it tells it itself, with what it was given");
  stands_for(Stands::engine, typed, verify->add_option("name", typed.name, "the engine"))->required();
  on_finish(verify, typed, [](const Typed& chosen) { return VerifyEngine{chosen.name}; });
  for (const bool drained : {true, false}) {
    auto* drain = app.add_subcommand(drained ? "drain" : "undrain",
                                     drained ? "take an engine, or the node, out of service: nothing is pushed until undrain"
                                             : "bring it back into service");
    stands_for(Stands::engine, typed, drain->add_option("name", typed.name, "the engine"));
    drain->add_flag("--all", typed.all, "the node with all its engines");
    on_finish(drain, typed, [drained](const Typed& chosen) { return finish_drain(chosen, drained); });
  }
}

void add_watch(CLI::App& app, Typed& typed) {
  auto* watch = app.add_subcommand("watch", "show what happens, line by line, until Ctrl-C");
  watch->add_flag("--once", typed.once, "end when the daemon ends, instead of waiting for it to come back");
  on_finish(watch, typed, [](const Typed& chosen) { return Watch{chosen.once}; });
}

void add_wait(CLI::App& app, Typed& typed) {
  auto* wait = app.add_subcommand("wait", "wait until a job has ended, or an engine serves its target and is ready");
  stands_for(Stands::subject, typed, wait->add_option("subject", typed.subject, "job/ID or engine/NAME"))->required();
  stands_for(Stands::version, typed,
             wait->add_option("--serving", typed.serving,
                              "for an engine: NAME@VERSION to wait for instead of its target"));
  wait->add_option("--timeout", typed.timeout, "give up after this long, as in 90s or 10m")->capture_default_str();
  on_finish(wait, typed, finish_wait);
}

void add_all(CLI::App& app, Typed& typed) {
  app.description("ckptctl - load checkpoints into ckptd and push them into inference engines");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", fmt::format("ckptctl {}", kVersion));
  stands_for(Stands::file, typed, app.add_option("--socket", typed.socket, "the daemon's control socket"))
      ->check(is_not_empty, "")
      ->capture_default_str();
  app.add_flag("--json", typed.json, "print exactly one JSON object on stdout");
  add_load_and_update(app, typed);
  add_checkpoints(app, typed);
  add_jobs(app, typed);
  add_engines(app, typed);
  add_service(app, typed);
  add_wait(app, typed);
  auto* completion = app.add_subcommand("completion", "print the completion script of a shell");
  stands_for(Stands::shell, typed, completion->add_option("shell", typed.shell, "bash, fish or zsh"))->required();
  on_finish(completion, typed, [](const Typed& chosen) { return ShowCompletionScript{chosen.shell}; });
  add_watch(app, typed);
  app.footer(kExamples);  // after the commands, which would inherit it
}

// ---- the same tables, read for completion ----

/// Options are looked up as app.fallthrough() does.
const CLI::Option* find_option(const CLI::App* app, const std::string& name) {
  for (; app != nullptr; app = app->get_parent())
    if (const auto* option = app->get_option_no_throw(name)) return option;
  return nullptr;
}

bool takes_value(const CLI::Option* option) { return option->get_items_expected_max() > 0; }

std::vector<std::string> options_of(const CLI::App* app) {
  std::vector<std::string> names;
  for (; app != nullptr; app = app->get_parent())
    for (const auto* option : app->get_options())
      for (const auto& name : option->get_lnames())
        if (std::ranges::find(names, "--" + name) == names.end()) names.push_back("--" + name);
  return names;
}

const CLI::Option* positional(const CLI::App* app, std::size_t number) {
  for (const auto* option : app->get_options())
    if (option->get_positional() && number-- == 0) return option;
  return nullptr;
}

/// Walks the words that are complete, and knows then what the next one stands for.
class Walk {
 public:
  Walk(CLI::App& app, const Typed& typed) : app_(&app), typed_(typed) { expected_.socket = typed.socket; }

  void pass(const std::string& word) {
    if (pending_ != nullptr) return take_value(std::exchange(pending_, nullptr), word);
    if (is_option(word)) {
      const auto equals = word.find('=');
      const auto* option = find_option(app_, word.substr(0, equals));
      if (option == nullptr || !takes_value(option)) return;
      if (equals == std::string::npos)
        pending_ = option;
      else
        take_value(option, word.substr(equals + 1));
    } else if (const auto* command = command_named(word)) {
      app_ = command;
      arguments_ = 0;
    } else {
      ++arguments_;
    }
  }

  Expected at(const std::string& word) {
    expected_.typed = word;
    if (pending_ != nullptr) {
      expect_value_of(pending_);
    } else if (is_option(word) && word.find('=') != std::string::npos) {
      const auto behind = word.find('=') + 1;
      expected_.before = word.substr(0, behind);
      expected_.typed = word.substr(behind);
      expect_value_of(find_option(app_, word.substr(0, behind - 1)));
    } else if (is_option(word)) {
      expected_.words = options_of(app_);
    } else if (const auto commands = app_->get_subcommands({}); !commands.empty()) {
      for (const auto* command : commands) expected_.words.push_back(command->get_name());
    } else {
      expect_value_of(positional(app_, arguments_));
    }
    return expected_;
  }

 private:
  const CLI::App* command_named(const std::string& word) const {
    const auto found = app_->get_subcommands([&](const CLI::App* command) { return command->get_name() == word; });
    return found.empty() ? nullptr : found.front();
  }

  static bool is_option(const std::string& word) { return word.starts_with('-'); }

  void take_value(const CLI::Option* option, const std::string& value) {
    if (option->check_lname("socket")) expected_.socket = value;
  }

  void expect_value_of(const CLI::Option* option) {
    if (auto meaning = typed_.meanings.find(option); meaning != typed_.meanings.end()) expected_.what = meaning->second;
  }

  const CLI::App* app_;
  const Typed& typed_;
  Expected expected_;
  const CLI::Option* pending_ = nullptr;
  std::size_t arguments_ = 0;
};

}  // namespace

Expected expected_at_end(const std::vector<std::string>& words) {
  Typed typed;
  typed.socket = Invocation().socket;
  CLI::App app("", "ckptctl");
  add_all(app, typed);
  Walk walk(app, typed);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) walk.pass(words[i]);
  return walk.at(words.empty() ? std::string() : words.back());
}

Result<Invocation> parse_command_line(int argc, const char* const* argv) {
  Invocation invocation;
  if (argc > 1 && std::string_view(argv[1]) == "__complete") {  // before the options among the words are taken as ours
    invocation.command = Complete{{argv + 2, argv + argc}};
    return invocation;
  }
  Typed typed;
  typed.socket = invocation.socket;
  CLI::App app("", "ckptctl");
  try {
    add_all(app, typed);
    app.parse(argc, argv);
  } catch (const CLI::ParseError& stop) {
    std::ostringstream answer, complaint;
    bool is_wrong = app.exit(stop, answer, complaint) != 0;
    // Otherwise the complaint would be that a command is missing.
    if (auto strangers = app.remaining(true); is_wrong && !strangers.empty())
      return fail(ErrorKind::invalid_argument, "'{}' is not understood; see ckptctl --help", strangers.front());
    if (is_wrong) return fail(ErrorKind::invalid_argument, "{}; see ckptctl --help", stop.what());
    invocation.text = answer.str();
    return invocation;
  }
  invocation.socket = typed.socket;
  invocation.json = typed.json;
  invocation.command = CKPTD_TRY(typed.finish());
  return invocation;
}

}  // namespace ckptd::ctl
