#include "common/deadline.h"
#include "common/units.h"
#include "ctl/answers.h"
#include "ctl/commands.h"
#include "ctl/engine_text.h"
#include "ctl/interrupts.h"
#include "ctl/text.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(500);

const std::string& wanted_by(const WaitForEngine& command, const api::Engine& engine) {
  return command.serving ? *command.serving : engine.target;
}

bool has_arrived(const WaitForEngine& command, const api::Engine& engine) {
  // A ckptd from before the life cycle says idle, and nothing of readiness.
  const bool is_well = engine.state == "idle" || (engine.state == "serving" && engine.ready);
  const auto& wanted = wanted_by(command, engine);
  return is_well && engine.poisoned.empty() && engine.serving == wanted && (!wanted.empty() || engine.state == "idle");
}

Error still_waiting(const WaitForEngine& command, const api::Engine& engine) {
  auto name_or_nothing = [](const std::string& name) { return name.empty() ? std::string("nothing") : name; };
  const auto& wanted = wanted_by(command, engine);
  return {ErrorKind::timed_out,
          fmt::format("engine {} is {} and serves {} after {}, and not {}{}", engine.name, state_of(engine),
                      name_or_nothing(engine.serving),
                      show_seconds(std::chrono::duration<double>(command.timeout).count()),
                      wanted.empty() ? "a target, of which it has none" : wanted,
                      engine.why.empty() ? "" : ": " + engine.why)};
}

/// Poison does not go away by waiting, unless an update is running or is going to be begun by the daemon.
bool is_hopeless(const api::Engine& engine) {
  return is_poisoned(engine) && engine.state != "updating" && !heals_by_itself(engine);
}

Error hopeless(const api::Engine& engine) {
  return {ErrorKind::peer_failed,
          fmt::format("engine {} is poisoned: {}; {}", engine.name, engine.poisoned, cure_for(engine))};
}

}  // namespace

Result<int> run(const AddEngine& command, const Context& context) {
  auto engine = CKPTD_TRY(context.client.put_engine(command.request));
  context.print(engine.json, fmt::format("engine {} is recorded\n", printable(engine.value.name)) +
                                 show_engine(engine.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ListEngines&, const Context& context) {
  auto engines = CKPTD_TRY(context.client.engines());
  context.print(engines.json, show_engines(engines.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const ShowEngine& command, const Context& context) {
  auto engine = CKPTD_TRY(context.client.engine(command.name));
  context.print(engine.json, show_engine(engine.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const RemoveEngine& command, const Context& context) {
  auto answer = CKPTD_TRY(context.client.remove_engine(command.name));
  context.print(answer, fmt::format("engine {} is forgotten\n", printable(command.name)));
  return api::kExitSuccess;
}

Result<int> run(const SetEngine& command, const Context& context) {
  auto engine = CKPTD_TRY(context.client.change_engine(command.name, command.change));
  context.print(engine.json, show_engine(engine.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const SetDrained& command, const Context& context) {
  if (command.engine.empty()) {
    auto status = CKPTD_TRY(context.client.set_node_drained(command.drained));
    context.print(status.json, command.drained
                                   ? "the node is out of service: running jobs go on, nothing new is pushed (ckptctl "
                                     "undrain --all)\n"
                                   : "the node is in service\n");
    return api::kExitSuccess;
  }
  auto engine = CKPTD_TRY(context.client.set_drained(command.engine, command.drained));
  context.print(engine.json, show_engine(engine.value, context.view()));
  return api::kExitSuccess;
}

Result<int> run(const WaitForEngine& command, const Context& context) {
  auto deadline = Deadline::in(command.timeout);
  bool is_away = false;
  while (true) {
    auto engine = context.client.engine(command.name);
    if (!engine) {
      // In ExecStartPost= of a server's unit: nobody says that the daemon starts first, or that it is not being upgraded.
      if (!may_come_back(engine.error()) || deadline.passed()) return std::unexpected(engine.error());
      if (!std::exchange(is_away, true))
        context.console.err(fmt::format("ckptctl: {}; waiting for it\n", printable(engine.error().sentence)));
      Interrupts::pause(context.stop, std::min(kPoll, std::chrono::milliseconds(deadline.poll_timeout_ms())));
      if (context.stop.stop_requested()) return std::unexpected(engine.error());
      continue;
    }
    is_away = false;
    if (has_arrived(command, engine->value)) {
      auto serves = engine->value.serving.empty() ? "nothing" : engine->value.serving;
      context.print(engine->json,
                    printable(fmt::format("engine {} serves {}", command.name, serves)) + "\n");
      return api::kExitSuccess;
    }
    if (is_hopeless(engine->value)) return std::unexpected(hopeless(engine->value));
    if (deadline.passed()) return std::unexpected(still_waiting(command, engine->value));
    Interrupts::pause(context.stop, std::min(kPoll, std::chrono::milliseconds(deadline.poll_timeout_ms())));
  }
}

}  // namespace ckptd::ctl
