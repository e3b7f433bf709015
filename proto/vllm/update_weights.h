// vLLM's POST /collective_rpc with the method of checkpoint-engine's worker extension, as bytes. Pure.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::vllm {

inline constexpr std::string_view kRpcTarget = "/collective_rpc";
inline constexpr std::string_view kExtension = "checkpoint_engine.worker.VllmColocateWorkerExtension";

/// {"method":"update_weights_from_ipc","args":[{"GPU-..":"ipc:///..."}],"kwargs":{},"timeout":300.0}
/// After `timeout` the server gives up waiting for its workers, which go on waiting for their sessions.
std::string update_request_body(const std::map<std::string, std::string>& handles, std::chrono::milliseconds timeout);

/// What the server said of the workers, for people; only for a 200 whose workers all returned nothing, as the extension
/// does. Errors:
///   denied       401, 403
///   unsupported  404, 405: not in development mode; 5xx that says the method is unknown: without the extension
///   peer_failed  everything else
Result<std::string> read_update_answer(unsigned status, std::string_view body, answer::Key sent);

}  // namespace ckptd::proto::vllm
