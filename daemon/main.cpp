// ckptd: reads the configuration, builds the assembly, waits for a signal.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/units.h"
#include "common/version.h"
#include "daemon/assembly.h"
#include "daemon/config/config.h"
#include "daemon/systemd/notifier.h"
#include "daemon/systemd/status_line.h"
#include "proto/control/outcome.h"

namespace {

using namespace ckptd;

int refuse(const Error& error) {
  fmt::print(stderr, "ckptd: {}\n", error.sentence);
  if (!error.vendor.empty()) fmt::print(stderr, "{}\n", error.vendor);
  return proto::control::outcome_of(error.kind).exit_code;
}

/// SIGTERM, SIGINT and SIGHUP are waited for, never handled: they are blocked before the first thread starts. A peer
/// that closes its socket is an error value, not SIGPIPE.
sigset_t block_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
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

/// What an end may take beyond the ranks: jobs that have to notice, and terabytes that go back to the kernel.
constexpr std::chrono::milliseconds kEndOfJobs{30'000};

/// 0 when none came in time.
int wait_for_signal(const sigset_t& signals, std::optional<std::chrono::milliseconds> longest) {
  using namespace std::chrono;
  siginfo_t info{};
  int received = -1;
  if (longest) {
    const timespec span{.tv_sec = duration_cast<seconds>(*longest).count(),
                        .tv_nsec = nanoseconds(*longest % seconds(1)).count()};
    received = ::sigtimedwait(&signals, &info, &span);
  } else {
    received = ::sigwaitinfo(&signals, &info);
  }
  return received < 0 ? 0 : received;  // EAGAIN, or EINTR by a debugger
}

/// A sign of life for systemd's watchdog, if it is time and the threads that everybody depends on give one: a main
/// thread that merely keeps a timer would hide that nobody is served.
void feed_watchdog(Assembly& assembly, systemd::Notifier& notifier) {
  const auto deadline = notifier.watchdog_due();
  if (!deadline) return;
  if (auto alive = assembly.check_alive(*deadline); alive)
    notifier.alive();
  else
    spdlog::error("no sign of life goes to systemd's watchdog: {}", alive.error().sentence);
}

/// Serves until SIGTERM or SIGINT, which it returns.
int attend(Assembly& assembly, systemd::Notifier& notifier, const sigset_t& signals) {
  for (;;) {
    notifier.status(systemd::status_line(assembly.status()));
    feed_watchdog(assembly, notifier);
    const int received = wait_for_signal(signals, notifier.tick());
    if (received == SIGTERM || received == SIGINT) return received;
    if (received != SIGHUP) continue;
    notifier.reloading();
    assembly.reload();
    notifier.ready();
  }
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

  auto assembly = Assembly::build(config, [argc, argv]() -> Result<config::Config> {
    auto again = CKPTD_TRY(config::parse_command_line(argc, argv));
    return std::move(again.config);
  });
  if (!assembly) return refuse(assembly.error());
  spdlog::info("ckptd {} serves {}/control.sock with a store of {}", kVersion, config.runtime_dir.string(),
               show_bytes(config.store_budget_bytes));
  systemd::Notifier notifier;
  notifier.ready();
  const int received = attend(**assembly, notifier, signals);
  notifier.stopping((*assembly)->shutdown_timeout() + kEndOfJobs);
  spdlog::info("{}: ending", ::strsignal(received));
  (*assembly)->stop();
  assembly->reset();
  spdlog::info("ended");
  return 0;
}
