// ckptd: reads the configuration, builds the assembly, waits for a signal.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <cstdio>
#include <cstring>

#include "common/units.h"
#include "common/version.h"
#include "daemon/assembly.h"
#include "daemon/config/config.h"
#include "proto/control/outcome.h"

namespace {

using namespace ckptd;

int refuse(const Error& error) {
  fmt::print(stderr, "ckptd: {}\n", error.sentence);
  if (!error.vendor.empty()) fmt::print(stderr, "{}\n", error.vendor);
  return proto::control::outcome_of(error.kind).exit_code;
}

/// SIGTERM and SIGINT are waited for, never handled: they are blocked before the first thread starts. A peer that
/// closes its socket is an error value, not SIGPIPE.
sigset_t block_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return set;
}

/// A terabyte of segments and a few hundred shards are thousands of descriptors; the soft limit is often 1024.
void raise_descriptor_limit() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  auto command = config::parse_command_line(argc, argv);
  if (!command) return refuse(command.error());
  if (command->action != config::Action::run) {
    fmt::print("{}", command->answer);
    return 0;
  }

  const auto& config = command->config;
  spdlog::set_level(spdlog::level::from_str(config.log_level));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  spdlog::flush_on(spdlog::level::info);
  const auto signals = block_signals();
  raise_descriptor_limit();

  auto assembly = Assembly::build(config);
  if (!assembly) return refuse(assembly.error());
  spdlog::info("ckptd {} serves {}/control.sock with a store of {}", kVersion, config.runtime_dir.string(),
               show_bytes(config.store_budget_bytes));
  ::sd_notify(0, "READY=1");

  int received = 0;
  sigwait(&signals, &received);
  ::sd_notify(0, "STOPPING=1");
  spdlog::info("{}: ending", ::strsignal(received));
  (*assembly)->stop();
  assembly->reset();
  spdlog::info("ended");
  return 0;
}
