#include "ctl/command_line.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <sstream>
#include <vector>

#include "common/units.h"
#include "common/version.h"
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

/// Everything that options write into, before it is a Command. One command is chosen, so members may be shared.
struct Typed {
  std::string socket, checkpoint, directory, idempotency_key, bucket_size, name, id, subject, serving;
  std::string timeout = "30s";
  std::vector<std::string> engines;
  api::EngineRequest engine;
  bool json = false, keep = false, detach = false, dry_run = false, force = false, keep_cache = false, tensors = false,
       forget = false, once = false;
  std::function<Result<Command>()> finish;  ///< of the chosen command
};

Result<CheckpointName> split_checkpoint(const std::string& text) {
  auto at = text.rfind('@');
  if (at == std::string::npos || at == 0 || at + 1 == text.size())
    return fail(ErrorKind::invalid_argument, "'{}' is no NAME@VERSION: write it as in Qwen/Qwen3-8B@step-120", text);
  return CheckpointName{text.substr(0, at), text.substr(at + 1)};
}

Result<Command> finish_load(const Typed& typed) {
  auto checkpoint = CKPTD_TRY(split_checkpoint(typed.checkpoint));
  auto uri = CKPTD_TRY(source_uri(typed.directory));
  return Load{{checkpoint.name, checkpoint.version, uri, typed.keep, typed.idempotency_key}, typed.detach};
}

Result<Command> finish_update(const Typed& typed) {
  auto checkpoint = CKPTD_TRY(split_checkpoint(typed.checkpoint));
  api::UpdateRequest request{.name = checkpoint.name,
                             .version = checkpoint.version,
                             .engines = typed.engines,
                             .dry_run = typed.dry_run,
                             .force = typed.force,
                             .bucket_bytes = std::nullopt,
                             .flush_cache = !typed.keep_cache,
                             .idempotency_key = typed.idempotency_key};
  if (!typed.bucket_size.empty()) request.bucket_bytes = CKPTD_TRY(parse_bytes(typed.bucket_size));
  return Update{std::move(request), typed.detach};
}

Result<Command> finish_wait(const Typed& typed) {
  auto timeout = CKPTD_TRY(parse_duration(typed.timeout));
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
  app->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION")->required();
  on_finish(app, typed, [make](const Typed& chosen) -> Result<Command> {
    return make(CKPTD_TRY(split_checkpoint(chosen.checkpoint)), chosen);
  });
}

void add_start_of_job(CLI::App* app, Typed& typed) {
  app->add_flag("--detach", typed.detach, "print the job and return at once");
  app->add_option("--idempotency-key", typed.idempotency_key,
                  "a word of your own: repeating the command with the same one repeats nothing");
}

void add_load_and_update(CLI::App& app, Typed& typed) {
  auto* load = app.add_subcommand("load", "read a version from a directory into host memory");
  load->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION")->required();
  load->add_option("directory", typed.directory, "a directory of safetensors files, or a URI")->required();
  load->add_flag("--keep", typed.keep, "never evict it to make room");
  add_start_of_job(load, typed);
  on_finish(load, typed, finish_load);

  auto* update = app.add_subcommand("update", "bring engines to a loaded version");
  update->add_option("checkpoint", typed.checkpoint, "the version, as NAME@VERSION")->required();
  update
      ->add_option("--engine", typed.engines,
                   "only this engine; may be repeated. Default: all whose checkpoint is NAME")
      ->allow_extra_args(false);
  update->add_flag("--dry-run", typed.dry_run, "only show what it would do");
  update->add_flag("--force", typed.force, "even if names, shapes or dtypes differ from what an engine serves");
  update->add_option("--bucket-size", typed.bucket_size,
                     "bytes of a bucket, as in 512MiB. Default: the daemon's choice");
  update->add_flag("--keep-cache", typed.keep_cache, "do not ask the engines to flush their cache");
  add_start_of_job(update, typed);
  on_finish(update, typed, finish_update);
}

void add_checkpoints(CLI::App& app, Typed& typed) {
  on_finish(app.add_subcommand("list", "list the versions"), typed, [](const Typed&) { return ListVersions{}; });
  on_finish(app.add_subcommand("status", "show daemon, store, devices, engines and jobs"), typed,
            [](const Typed&) { return ShowStatus{}; });

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
  on_finish(app.add_subcommand("trim", "give the store's idle memory back to the system"), typed,
            [](const Typed&) { return Trim{}; });
}

void add_jobs(CLI::App& app, Typed& typed) {
  auto* job = app.add_subcommand("job", "list, show, watch and cancel jobs")->require_subcommand(1);
  on_finish(job->add_subcommand("list", "list running and finished jobs"), typed,
            [](const Typed&) { return ListJobs{}; });
  auto* show = job->add_subcommand("show", "show one job");
  show->add_option("id", typed.id, "the job, as in load-17")->required();
  on_finish(show, typed, [](const Typed& chosen) { return ShowJob{chosen.id}; });
  auto* watch = job->add_subcommand("watch", "wait for the end of a job and show its progress");
  watch->add_option("id", typed.id, "the job, as in load-17")->required();
  on_finish(watch, typed, [](const Typed& chosen) { return WatchJob{chosen.id}; });
  auto* cancel = job->add_subcommand("cancel", "ask a job to end");
  cancel->add_option("id", typed.id, "the job, as in load-17")->required();
  cancel->add_flag("--force", typed.force,
                   "even an update that has begun to send weights: its engines become poisoned");
  on_finish(cancel, typed, [](const Typed& chosen) { return CancelJob{chosen.id, chosen.force}; });
}

void add_engines(CLI::App& app, Typed& typed) {
  auto* engine = app.add_subcommand("engine", "add, list, show and remove engines")->require_subcommand(1);
  auto* add = engine->add_subcommand("add", "record an engine, or change its record");
  add->add_option("name", typed.engine.name, "a name for the engine")->required();
  add->add_option("--kind", typed.engine.kind, "what it is, as in sglang")->required();
  add->add_option("--endpoint", typed.engine.endpoint, "where it listens: http://HOST:PORT or unix:PATH")->required();
  add->add_option("--checkpoint", typed.engine.checkpoint, "the NAME whose versions it serves")->required();
  add->add_option("--devices", typed.engine.devices, "the devices of its ranks, separated by commas. Default: all")
      ->delimiter(',')
      ->allow_extra_args(false);
  on_finish(add, typed, [](const Typed& chosen) { return AddEngine{chosen.engine}; });
  on_finish(engine->add_subcommand("list", "list the engines"), typed, [](const Typed&) { return ListEngines{}; });
  auto* show = engine->add_subcommand("show", "show one engine");
  show->add_option("name", typed.name, "the engine")->required();
  on_finish(show, typed, [](const Typed& chosen) { return ShowEngine{chosen.name}; });
  auto* remove = engine->add_subcommand("remove", "forget an engine; the engine itself is left alone");
  remove->add_option("name", typed.name, "the engine")->required();
  on_finish(remove, typed, [](const Typed& chosen) { return RemoveEngine{chosen.name}; });
}

void add_watch(CLI::App& app, Typed& typed) {
  auto* watch = app.add_subcommand("watch", "show what happens, line by line, until Ctrl-C");
  watch->add_flag("--once", typed.once, "end when the daemon ends, instead of waiting for it to come back");
  on_finish(watch, typed, [](const Typed& chosen) { return Watch{chosen.once}; });
}

void add_wait(CLI::App& app, Typed& typed) {
  auto* wait = app.add_subcommand("wait", "wait until a job has ended, or an engine is idle and serves its target");
  wait->add_option("subject", typed.subject, "job/ID or engine/NAME")->required();
  wait->add_option("--serving", typed.serving, "for an engine: NAME@VERSION to wait for instead of its target");
  wait->add_option("--timeout", typed.timeout, "give up after this long, as in 90s or 10m")->capture_default_str();
  on_finish(wait, typed, finish_wait);
}

void add_all(CLI::App& app, Typed& typed) {
  app.description("ckptctl - load checkpoints into ckptd and push them into inference engines");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", fmt::format("ckptctl {}", kVersion));
  app.add_option("--socket", typed.socket, "the daemon's control socket")->capture_default_str();
  app.add_flag("--json", typed.json, "print exactly one JSON object on stdout");
  add_load_and_update(app, typed);
  add_checkpoints(app, typed);
  add_jobs(app, typed);
  add_engines(app, typed);
  add_wait(app, typed);
  add_watch(app, typed);
  app.footer(kExamples);  // after the commands, which would inherit it
}

}  // namespace

Result<Invocation> parse_command_line(int argc, const char* const* argv) {
  Invocation invocation;
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
