// An inference server, as its own API shows it: the one call that makes it open the sessions of an update.
//
// A kind of engine (today SGLang) is one backend. call_update() blocks until the engine has answered, the deadline has
// passed or a stop is requested; an engine that answers early, before its ranks have finished, has failed them.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/http_client.h"
#include "common/result.h"

namespace ckptd::fleet {

struct UpdateCall {
  std::map<std::string, std::string> endpoints;  ///< device uuid -> endpoint of its session
  std::string weight_version;
  bool flush_cache = true;
};

class Engine {
 public:
  virtual ~Engine() = default;

  /// Success only when the engine says so itself. Errors: peer_failed with the engine's message when it says no, denied
  /// when it wants a key, unsupported when it has no such call, unavailable when it cannot be reached or the connection
  /// broke, timed_out, cancelled.
  virtual Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                          std::stop_token stop) = 0;

  /// Is somebody there? Short, for messages and engine list; unavailable if not.
  virtual Result<> ping(std::chrono::milliseconds timeout) = 0;
};

/// The kinds that `engine add --kind` accepts.
std::vector<std::string> known_kinds();

}  // namespace ckptd::fleet
