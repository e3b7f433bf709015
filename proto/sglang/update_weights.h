// SGLang's POST /update_weights_from_ipc, as bytes. Pure: no sockets, no waiting.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::sglang {

inline constexpr std::string_view kUpdateTarget = "/update_weights_from_ipc";
inline constexpr std::string_view kPingTarget = "/ping";

/// From device uuids to endpoints, as the ranks look for them. SGLang asks for "GPU-" and the digits that CUDA gives, also on
/// an instance of a divided GPU, whose uuid is spelled "MIG-": such a handle is there under both, and a key that nobody asks
/// for is ignored.
std::map<std::string, std::string> handles_as_asked_for(const std::map<std::string, std::string>& handles);

/// {"zmq_handles":{"HOST-0":"ipc:///..."},"flush_cache":true,"weight_version":"..."}, with handles_as_asked_for(handles).
/// An empty `weight_version` is left out: the server keeps the one it has.
std::string update_request_body(const std::map<std::string, std::string>& handles, std::string_view weight_version,
                                bool flush_cache);

/// The server's message, and only for a 200 that says "success": true. Errors:
///   denied       401, 403: the server wants a key, or another one than the one that was `sent`
///   unsupported  404, 405: a server without this route
///   peer_failed  everything else, with the server's own words as vendor text
Result<std::string> read_update_answer(unsigned status, std::string_view body,
                                       answer::Key sent = answer::Key::none);

}  // namespace ckptd::proto::sglang
