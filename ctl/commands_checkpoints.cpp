#include "common/units.h"
#include "ctl/commands.h"
#include "ctl/completion.h"
#include "ctl/text.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {

Result<int> run(const ListVersions&, const Context& context) {
  auto versions = CKPTD_TRY(context.client.versions());
  context.print(versions.json, show_versions(versions.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ShowVersion& command, const Context& context) {
  auto version = CKPTD_TRY(context.client.version(command.checkpoint, command.tensors));
  context.print(version.json, show_version(version.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ShowStatus&, const Context& context) {
  auto status = CKPTD_TRY(context.client.status());
  context.print(status.json, show_status(status.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const Reload&, const Context& context) {
  auto reload = CKPTD_TRY(context.client.reload());
  context.print(reload.json, show_reload(reload.value) + "\n");
  return api::kExitSuccess;
}

Result<int> run(const Evict& command, const Context& context) {
  auto answer = CKPTD_TRY(context.client.evict(command.checkpoint, command.forget));
  context.print(answer, fmt::format("{} {}; its memory went back to the store\n", printable(command.checkpoint.show()),
                                    command.forget ? "evicted and forgotten" : "evicted"));
  return api::kExitSuccess;
}

Result<int> run(const SetKept& command, const Context& context) {
  auto version = CKPTD_TRY(context.client.set_kept(command.checkpoint, command.kept));
  context.print(version.json, fmt::format("{} {}\n", printable(command.checkpoint.show()),
                                          version.value.kept ? "is kept" : "may be evicted"));
  return api::kExitSuccess;
}

Result<int> run(const Trim&, const Context& context) {
  auto freed = CKPTD_TRY(context.client.trim());
  auto text = fmt::format("{} given back to the system\n", show_bytes(freed.value.bytes));
  if (freed.value.communicators > 0)
    text += fmt::format("{} of NCCL communicators let go; the next update of those GPUs makes them anew\n",
                        freed.value.communicators == 1 ? "1 set" : fmt::format("{} sets", freed.value.communicators));
  context.print(freed.json, text);
  return api::kExitSuccess;
}

Result<int> run(const ShowCompletionScript& command, const Context& context) {
  context.console.out(CKPTD_TRY(completion_script(command.shell)));
  return api::kExitSuccess;
}

Result<int> run(const Complete& command, const Context& context) {
  std::string lines;
  for (const auto& candidate : candidates(expected_at_end(command.words))) lines += candidate + "\n";
  context.console.out(lines);
  return api::kExitSuccess;
}

}  // namespace ckptd::ctl
