// The directory of the ranks' sockets and the sessions behind them.
//
// Each session binds a fresh endpoint, ipc://<runtime-dir>/r/<10 random characters>, in a directory of mode 0750
// and group rank_group, the socket of mode 0660 and the same group. docs/worker_protocol.md describes every byte.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/ranks/session.h"

namespace ckptd::ranks::checkpoint_engine {

struct Options {
  std::filesystem::path directory;            ///< created with mode 0750 if missing
  std::string rank_group;                     ///< name or number; empty: the daemon's own group
  std::chrono::milliseconds keep_bound{30 * 60'000};  ///< how long the custodian waits for a rank that never came
};

/// An endpoint that a dead predecessor left: somebody may wait on it.
struct OpenEndpoint {
  std::string endpoint;
  std::string engine;
  std::string device;
};

/// Owns the ZeroMQ context, the directory and the custodian: a long-lived thread that keeps the endpoint of a failed
/// session bound and answers with the exception until its rank is gone. Safe from any thread.
class Endpoints {
 public:
  /// invalid_argument when an endpoint in this directory would be longer than the 107 bytes that a Unix socket's path
  /// may have; denied when the directory cannot be made or given to the group.
  static Result<std::unique_ptr<Endpoints>> create(const Options& options);
  virtual ~Endpoints() = default;

  /// Binds a fresh endpoint. `engine` and `device` are for messages; `device` is what the rank looks itself up by.
  virtual Result<std::unique_ptr<Session>> open(std::string engine, std::string device) = 0;

  /// Binds what a predecessor left and lets the custodian answer with `reason`. Skips, with a warning, endpoints that
  /// are not ours (outside the directory). Unlinks sockets in the directory that are not in `open`.
  virtual void adopt(const std::vector<OpenEndpoint>& open, const Error& reason) = 0;

  /// Endpoints that the custodian still holds: their rank was not seen to go away yet.
  virtual std::vector<OpenEndpoint> in_custody() const = 0;

  /// Called, from the custodian's thread, with each endpoint that it closed for good.
  virtual void on_closed(std::function<void(const std::string& endpoint)> callback) = 0;

  /// Waits until the custodian holds nothing or the deadline; for an orderly end. Returns what is still held.
  virtual std::vector<OpenEndpoint> drain(Deadline deadline) = 0;
};

}  // namespace ckptd::ranks::checkpoint_engine
