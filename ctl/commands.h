// One function for each command. Each asks the daemon, prints the answer and returns the exit code; errors are the
// caller's to print, so that --json has one place that keeps stdout pure.
#pragma once

#include <stop_token>

#include "common/result.h"
#include "ctl/client.h"
#include "ctl/command_line.h"
#include "ctl/console.h"
#include "ctl/progress.h"
#include "ctl/summaries.h"

namespace ckptd::ctl {

struct Context {
  const Client& client;
  const Console& console;
  bool json = false;
  std::stop_token stop;

  View view() const { return {console.out_width(), console.utf8()}; }
  /// The daemon's own JSON, or the text for people.
  void print(const nlohmann::json& answer, const std::string& text) const;
  /// A bar where it can be redrawn, else lines; with --json nothing else.
  ProgressMode progress_mode() const;
};

Result<int> run(const Load& command, const Context& context);
Result<int> run(const Update& command, const Context& context);
Result<int> run(const ListVersions& command, const Context& context);
Result<int> run(const ShowVersion& command, const Context& context);
Result<int> run(const ShowStatus& command, const Context& context);
Result<int> run(const Reload& command, const Context& context);
Result<int> run(const Evict& command, const Context& context);
Result<int> run(const SetKept& command, const Context& context);
Result<int> run(const Trim& command, const Context& context);
Result<int> run(const ListJobs& command, const Context& context);
Result<int> run(const ShowJob& command, const Context& context);
Result<int> run(const WatchJob& command, const Context& context);
Result<int> run(const TraceJob& command, const Context& context);
Result<int> run(const Watch& command, const Context& context);
Result<int> run(const CancelJob& command, const Context& context);
Result<int> run(const Probe& command, const Context& context);
Result<int> run(const AddEngine& command, const Context& context);
Result<int> run(const ListEngines& command, const Context& context);
Result<int> run(const ShowEngine& command, const Context& context);
Result<int> run(const RemoveEngine& command, const Context& context);
Result<int> run(const SetEngine& command, const Context& context);
Result<int> run(const RollBack& command, const Context& context);
Result<int> run(const VerifyEngine& command, const Context& context);
Result<int> run(const SetDrained& command, const Context& context);
Result<int> run(const WaitForJob& command, const Context& context);
Result<int> run(const WaitForEngine& command, const Context& context);
Result<int> run(const ShowCompletionScript& command, const Context& context);
Result<int> run(const Complete& command, const Context& context);

}  // namespace ckptd::ctl
