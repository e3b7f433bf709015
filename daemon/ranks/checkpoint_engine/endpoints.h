// The directory of the ranks' sockets and the sessions behind them.
//
// Each session binds a fresh endpoint, ipc://<runtime-dir>/r/<10 random characters>, in a directory of mode 0750
// and group rank_group, the socket of mode 0660 and the same group. docs/worker_protocol.md describes every byte.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "common/result.h"
#include "daemon/ranks/endpoints.h"

namespace ckptd::ranks::checkpoint_engine {

struct Options {
  std::filesystem::path directory;            ///< created with mode 0750 if missing
  std::string rank_group;                     ///< name or number; empty: the daemon's own group
  std::chrono::milliseconds keep_bound{30 * 60'000};  ///< how long the custodian waits for a rank that never came
  std::filesystem::path shared_memory = "/dev/shm";   ///< of the receipts, see receipts.h
  std::chrono::milliseconds parting_wait{1'000};      ///< kPartingWait; shorter in tests of other things
  std::chrono::milliseconds stay_for_return{10'000};  ///< kStayForReturn; shorter in tests of other things
};

/// Owns the ZeroMQ context, the directory and the custodian's thread; see ranks::Endpoints for what it keeps.
/// invalid_argument when an endpoint in this directory would be longer than the 107 bytes that a Unix socket's path may
/// have; denied when the directory cannot be made or given to the group.
Result<std::unique_ptr<Endpoints>> make_endpoints(const Options& options);

}  // namespace ckptd::ranks::checkpoint_engine
