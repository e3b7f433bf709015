// Chooses backends, builds objects in dependency order. The only file that names a concrete backend.
#pragma once

#include <functional>
#include <memory>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/config/config.h"
#include "proto/control/api.h"

namespace ckptd {

/// The running daemon: its members are the objects, in dependency order, so that destruction in reverse is the shutdown
/// order. Serves from the moment it exists.
class Assembly {
 public:
  /// `reread` reads file and flags again, for a reload. Called from any thread, by one at a time.
  static Result<std::unique_ptr<Assembly>> build(const config::Config& config,
                                                 std::function<Result<config::Config>()> reread);
  virtual ~Assembly() = default;

  virtual proto::control::Status status() const = 0;
  /// As POST /v1/reload does; what comes of it is logged and stands in status().
  virtual void reload() = 0;
  /// For a watchdog: whether the threads that everybody depends on come round before the deadline. Blocks until then.
  virtual Result<> check_alive(Deadline deadline) = 0;

  /// Ends what runs and lets failed sessions reach their ranks, for at most timeouts.shutdown. After this
  /// only destruction is left.
  virtual void stop() = 0;
  virtual std::chrono::milliseconds shutdown_timeout() const = 0;
};

}  // namespace ckptd
