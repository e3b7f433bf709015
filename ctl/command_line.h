// What was typed, as a value. Pure, except that a relative directory is completed from where we stand.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/result.h"
#include "ctl/client.h"

namespace ckptd::ctl {

struct Load {
  api::LoadRequest request;
  bool detach = false;
};
struct Update {
  api::UpdateRequest request;
  bool detach = false;
};
struct ListVersions {};
struct ShowVersion {
  CheckpointName checkpoint;
  bool tensors = false;
};
struct ShowStatus {};
struct Reload {};
struct Evict {
  CheckpointName checkpoint;
  bool forget = false;
};
struct SetKept {
  CheckpointName checkpoint;
  bool kept = true;
};
struct Trim {};
struct ListJobs {};
struct ShowJob {
  std::string id;
};
struct WatchJob {
  std::string id;
};
struct TraceJob {
  std::string id;
  std::string output;  ///< file for the JSON; empty: stdout, unless `html` is given
  std::string html;    ///< file for the page; empty: none
};
struct Probe {};
struct Watch {
  bool once = false;  ///< ends with the connection instead of waiting for the daemon to come back
};
struct CancelJob {
  std::string id;
  bool force = false;
};
struct AddEngine {
  api::EngineRequest request;
};
struct ListEngines {};
struct ShowEngine {
  std::string name;
};
struct RemoveEngine {
  std::string name;
};
struct SetEngine {
  std::string name;
  api::EngineChange change;
};
struct RollBack {
  api::RollbackRequest request;
  bool detach = false;
};
struct VerifyEngine {
  std::string name;
};
struct SetDrained {
  std::string engine;  ///< empty: the node
  bool drained = true;
};
struct WaitForJob {
  std::string id;
  std::chrono::milliseconds timeout{};
};
struct WaitForEngine {
  std::string name;
  std::optional<std::string> serving;  ///< NAME@VERSION; absent: the engine's target
  std::chrono::milliseconds timeout{};
};

struct ShowCompletionScript {
  std::string shell;
};
/// What the shells' scripts ask.
struct Complete {
  std::vector<std::string> words;  ///< all behind "__complete"; the last is being typed
};

using Command =
    std::variant<Load, Update, ListVersions, ShowVersion, ShowStatus, Reload, Evict, SetKept, Trim, ListJobs, ShowJob,
                 WatchJob, Watch, TraceJob, CancelJob, Probe, AddEngine, ListEngines, ShowEngine, RemoveEngine, SetEngine,
                 RollBack, VerifyEngine, SetDrained, WaitForJob, WaitForEngine,
                 ShowCompletionScript, Complete>;

struct Invocation {
  std::string socket = "/run/ckptd/control.sock";
  bool json = false;
  std::optional<Command> command;  ///< absent: --help or --version was asked for
  std::string text;                ///< the answer to those
};

/// Errors are usage errors; their sentences say how to write it.
Result<Invocation> parse_command_line(int argc, const char* const* argv);

}  // namespace ckptd::ctl
