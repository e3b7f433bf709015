// Where the sessions of updates are opened, and what happens to those that failed.
//
// One protocol is one backend. Safe from any thread; nothing here blocks for a rank except drain().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "common/result.h"
#include "daemon/ranks/session.h"
#include "daemon/weights/manifest.h"

namespace ckptd::ranks {

/// An endpoint on which somebody may still wait: of a session that failed or was retired, or left by a dead predecessor.
struct OpenEndpoint {
  std::string endpoint;
  std::string engine;
  std::string device;
  bool failed = true;  ///< false: retired, and kept for a rank that comes back
};

/// Where the sessions of one update are opened.
class Opener {
 public:
  virtual ~Opener() = default;

  /// What plan must keep for this protocol.
  virtual Traits traits() const = 0;

  /// unsupported, naming the tensor, when the protocol has no way to carry its dtype or shape.
  virtual Result<> check_carriable(const weights::Manifest& manifest) const = 0;

  /// A fresh session. `engine` and `device` are for messages; `device` is what the rank looks itself up by.
  virtual Result<std::unique_ptr<Session>> open(std::string engine, std::string device) = 0;
};

/// Opens sessions that ranks connect to, and owns the custodian: a long-lived thread that keeps the endpoint of a failed
/// session bound and answers with the exception until its rank is gone.
class Endpoints : public Opener {
 public:
  /// Binds what a predecessor left and lets the custodian answer with `reason`. Skips, with a warning, endpoints that
  /// are not ours (outside the directory). Unlinks sockets in the directory that are not in `open`.
  virtual void adopt(const std::vector<OpenEndpoint>& open, const Error& reason) = 0;

  /// Endpoints that the custodian still holds: their rank was not seen to go away yet.
  virtual std::vector<OpenEndpoint> in_custody() const = 0;

  /// Called, from the custodian's thread, with each endpoint that it closed for good.
  virtual void on_closed(std::function<void(const std::string& endpoint)> callback) = 0;

  /// For a watchdog: whether the custodian comes round before the deadline. Blocks until then; timed_out.
  virtual Result<> check_alive(Deadline deadline) const = 0;

  /// Waits until the custodian holds nothing or the deadline; for an orderly end. Returns what is still held.
  virtual std::vector<OpenEndpoint> drain(Deadline deadline) = 0;
};

}  // namespace ckptd::ranks
