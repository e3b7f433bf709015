// ckptctl: says to ckptd over its control socket what to do, and to people what it did.
#include <algorithm>
#include <exception>
#include <string_view>
#include <type_traits>
#include <variant>

#include "ctl/command_line.h"
#include "ctl/commands.h"
#include "ctl/interrupts.h"
#include "ctl/report.h"
#include "proto/control/outcome.h"

namespace {

using namespace ckptd;
using namespace ckptd::ctl;

/// A line that could not be understood may still have asked for JSON.
bool asks_for_json(int argc, const char* const* argv) {
  return std::any_of(argv, argv + argc, [](const char* word) { return std::string_view(word) == "--json"; });
}

template <class T, class... Listed>
constexpr bool is_one_of = (std::is_same_v<T, Listed> || ...);

bool only_asks(const Command& command) {
  return std::visit(
      []<class T>(const T& typed) {
        if constexpr (std::is_same_v<T, Update>) return typed.request.dry_run;
        return is_one_of<T, ListVersions, ShowVersion, ShowStatus, ListJobs, ShowJob, WatchJob, TraceJob, Watch, ListEngines,
                         ShowEngine, WaitForJob, WaitForEngine, ShowCompletionScript, Complete>;
      },
      command);
}

Error interrupted(const Command& command) {
  if (only_asks(command)) return {ErrorKind::cancelled, "interrupted; this command changes nothing"};
  return {ErrorKind::cancelled,
          "interrupted; a request that was under way may have reached the daemon: see 'ckptctl job list'"};
}

int run_command(const Invocation& invocation, const Console& console) {
  auto interrupts = Interrupts::watch();
  if (!interrupts) return report(interrupts.error(), console, invocation.json);
  auto stop = (*interrupts)->token();
  Client client(invocation.socket, stop);
  Context context{client, console, invocation.json, stop};
  auto exit_code = std::visit([&](const auto& command) { return run(command, context); }, *invocation.command);
  if (exit_code) return *exit_code;
  if (!stop.stop_requested()) return report(exit_code.error(), console, invocation.json);
  report(interrupted(*invocation.command), console, invocation.json);
  return api::kExitDetached;
}

int run_program(int argc, const char* const* argv) {
  Console console;
  auto invocation = parse_command_line(argc, argv);
  if (!invocation) {
    report(invocation.error(), console, asks_for_json(argc, argv));
    return api::kExitUsage;
  }
  int exit_code = api::kExitSuccess;
  if (invocation->command)
    exit_code = run_command(*invocation, console);
  else
    console.out(invocation->text);
  if (!console.out_failed()) return exit_code;
  return report({ErrorKind::io, "the answer could not be written to stdout"}, console, false);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_program(argc, argv);
  } catch (const std::exception& bug) {
    return report({ErrorKind::internal, fmt::format("stopped by an error of our own: {}", bug.what())}, Console(),
                  false);
  }
}
