#include "daemon/systemd/notifier.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <ctime>

namespace ckptd::systemd {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStatusInterval{1'000};

void tell(const std::string& message) { ::sd_notify(0, message.c_str()); }

std::int64_t monotonic_microseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // the clock that sd_notify(3) asks for
  return std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
}

}  // namespace

Notifier::Notifier() : listening_(std::getenv("NOTIFY_SOCKET") != nullptr) {
  std::uint64_t microseconds = 0;
  if (::sd_watchdog_enabled(0, &microseconds) > 0) watchdog_ = std::chrono::microseconds(microseconds);
}

// A quarter of the watchdog's time until the threads are asked, a half for their answer; the rest is for slow machines.
std::optional<milliseconds> Notifier::tick() const {
  if (!listening_) return std::nullopt;
  if (watchdog_.count() == 0) return kStatusInterval;
  return std::min(kStatusInterval, std::chrono::ceil<milliseconds>(watchdog_ / 8));
}

std::optional<Deadline> Notifier::watchdog_due() const {
  if (watchdog_.count() == 0 || Clock::now() - last_alive_ < watchdog_ / 4 - *tick()) return std::nullopt;
  return Deadline::in(watchdog_ / 2);
}

void Notifier::alive() {
  last_alive_ = Clock::now();
  tell("WATCHDOG=1");
}

void Notifier::ready() { tell("READY=1"); }

void Notifier::reloading() { tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", monotonic_microseconds())); }

void Notifier::stopping(milliseconds longest) {
  tell(fmt::format("STOPPING=1\nSTATUS=ending: telling ranks that wait\nEXTEND_TIMEOUT_USEC={}",
                   std::chrono::microseconds(longest).count()));
}

void Notifier::status(const std::string& line) {
  if (!listening_ || line == last_status_) return;
  last_status_ = line;
  tell("STATUS=" + line);
}

}  // namespace ckptd::systemd
