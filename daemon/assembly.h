// Chooses backends, builds objects in dependency order. The only file that names a concrete backend.
#pragma once

#include <memory>

#include "common/result.h"
#include "daemon/config/config.h"

namespace ckptd {

/// The running daemon: its members are the objects, in dependency order, so that destruction in reverse is the shutdown
/// order. Serves from the moment it exists.
class Assembly {
 public:
  static Result<std::unique_ptr<Assembly>> build(const config::Config& config);
  virtual ~Assembly() = default;

  /// Ends what runs and lets failed sessions reach their ranks, for at most config.shutdown. After this only
  /// destruction is left.
  virtual void stop() = 0;
};

}  // namespace ckptd
