// LMDeploy's GET and POST /update_weights_from_ipc and what goes with them, as bytes. Pure.
//
// Its PyTorch engine takes weights only while it sleeps with its weights back and its KV cache released: POST /sleep,
// POST /wakeup?tags=weights, the update, POST /wakeup?tags=kv_cache. Posts must be application/json, also empty ones.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::lmdeploy {

inline constexpr std::string_view kUpdateTarget = "/update_weights_from_ipc";
inline constexpr std::string_view kHealthTarget = "/health", kSleepingTarget = "/is_sleeping";
/// Level 1 keeps the old weights in host memory: an update that fails before it begins can be undone by waking up.
inline constexpr std::string_view kSleepTarget = "/sleep?level=1";
inline constexpr std::string_view kWakeWeightsTarget = "/wakeup?tags=weights";
inline constexpr std::string_view kWakeCacheTarget = "/wakeup?tags=kv_cache";

std::string update_request_body(const std::map<std::string, std::string>& handles);  ///< {"zmq_handles":{..}}

/// The server's message, and only for a 200 that says "success": true. unsupported also for 501: another backend than
/// PyTorch, or no CUDA.
Result<std::string> read_update_answer(unsigned status, std::string_view body, answer::Key sent);

/// Of GET /update_weights_from_ipc: may an update begin?
struct Readiness {
  bool ready = false;
  std::string message;
  std::string backend, device;         ///< "pytorch", "cuda"
  std::string checkpoint_engine;       ///< version of the package in its workers; empty: they cannot import it
  bool sleeping = false;
  std::vector<std::string> asleep;     ///< "kv_cache", "weights"
  std::vector<std::string> device_uuids;
  unsigned tensor_parallel = 0, data_parallel = 1;  ///< 0: not told
};
Result<Readiness> read_readiness(unsigned status, std::string_view body, answer::Key sent);

/// Of GET /health: a JSON object with a status; older servers answer 200 and nothing.
enum class Health { starting, healthy, sleeping, unknown };
Result<Health> read_health(unsigned status, std::string_view body);

/// {"is_sleeping":bool}
Result<bool> read_sleeping(unsigned status, std::string_view body, answer::Key sent);

/// 200, whatever the body.
Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent);

}  // namespace ckptd::proto::lmdeploy
