// sd_notify(3): what the service manager is told, and how often it wants to hear that we are alive.
//
// Used by the main thread alone. Nothing blocks: each message is one datagram. Without a service manager that listens
// everything here does nothing.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "common/deadline.h"

namespace ckptd::systemd {

class Notifier {
 public:
  /// Looks at NOTIFY_SOCKET and WATCHDOG_USEC, which are systemd's to set.
  Notifier();

  /// How long main may wait between two rounds of status() and the watchdog; nothing when nobody listens.
  std::optional<std::chrono::milliseconds> tick() const;

  void ready();
  void reloading();
  /// The end may take `longest` before systemd kills us, however short its own limit is.
  void stopping(std::chrono::milliseconds longest);
  /// Sent only when it is not what was sent last.
  void status(const std::string& line);

  /// When the vital threads shall be asked for a sign of life, by when they must have given it; nothing while there is
  /// time, or no watchdog.
  std::optional<Deadline> watchdog_due() const;
  void alive();

 private:
  bool listening_ = false;
  std::chrono::microseconds watchdog_{0};  ///< 0: none
  Clock::time_point last_alive_ = Clock::now();
  std::string last_status_;
};

}  // namespace ckptd::systemd
