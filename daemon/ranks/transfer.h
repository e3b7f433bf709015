// An update whose ranks cannot be spoken to one by one: the engine is called, and a call serves all of them.
//
// Its sessions only say what they have come to. Who calls the engine, on a thread of his own, is run(): it waits until
// every session has come to the same step, makes the call, and acknowledges the step to all of them when the engine has
// answered.
#pragma once

#include <chrono>
#include <stop_token>
#include <string>

#include "common/result.h"
#include "daemon/device/device.h"
#include "daemon/ranks/endpoints.h"

namespace ckptd::ranks {

/// Lives as long as one update, and longer than run(). open() is called once for each device before run().
class Transfer : public Opener {
 public:
  /// Once for each device, before run(): where the memory that its session will offer is in this process. For a protocol that
  /// carries the bytes itself; both outlive the session, and the memory whatever the session's hold() says.
  virtual void lend(device::Device& device, device::Range arena) { static_cast<void>(device), static_cast<void>(arena); }

  /// Blocks until all sessions have finished and returns what the engine said; or until the first failure, of the engine
  /// or of a session, or `stop`. Then all sessions have ended too. Gives back a server that it can live with: what was
  /// begun there and not finished is closed, for a bounded time.
  virtual Result<std::string> run(std::chrono::milliseconds timeout, std::stop_token stop) = 0;
};

}  // namespace ckptd::ranks
