#include "ctl/interrupts.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/unique_fd.h"
#include "common/waker.h"
#include "proto/control/outcome.h"

namespace ckptd::ctl {
namespace {

sigset_t signals_to_watch() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction action{};
    ::sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) ::sigaddset(&set, number);
  }
  return set;
}

class Watching final : public Interrupts {
 public:
  Watching(UniqueFd signals, Waker ending) : signals_(std::move(signals)), ending_(std::move(ending)) {
    thread_ = std::thread([this] { run(); });
  }
  Watching(const Watching&) = delete;  // its thread refers to it
  Watching& operator=(const Watching&) = delete;
  ~Watching() override {
    ending_.wake();
    thread_.join();
  }

  std::stop_token token() const override { return stop_.get_token(); }

 private:
  void run() {
    while (true) {
      std::array<pollfd, 2> waiting{pollfd{signals_.get(), POLLIN, 0}, pollfd{ending_.fd(), POLLIN, 0}};
      if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
      if (waiting[1].revents) return;
      signalfd_siginfo signal{};
      if (waiting[0].revents && ::read(signals_.get(), &signal, sizeof signal) == sizeof signal) on_signal();
    }
  }

  void on_signal() {
    if (stop_.request_stop()) return;
    if (::isatty(STDERR_FILENO)) [[maybe_unused]]
      auto written = ::write(STDERR_FILENO, "\n", 1);
    ::_exit(proto::control::kExitDetached);
  }

  UniqueFd signals_;
  Waker ending_;
  std::stop_source stop_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Interrupts>> Interrupts::watch() {
  auto set = signals_to_watch();
  if (int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr))
    return std::unexpected(system_error(error, "block signals"));
  UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC));
  if (!signals) return std::unexpected(system_error(errno, "listen for signals"));
  auto waker = CKPTD_TRY(Waker::create());
  return std::make_unique<Watching>(std::move(signals), std::move(waker));
}

void Interrupts::pause(std::stop_token stop, std::chrono::milliseconds span) {
  std::mutex mutex;
  std::condition_variable_any wakeup;
  std::unique_lock lock(mutex);
  wakeup.wait_for(lock, stop, span, [] { return false; });
}

}  // namespace ckptd::ctl
