// SGLang: POST /update_weights_from_ipc, GET /ping. Requests and answers are in proto/sglang.
#pragma once

#include <chrono>
#include <memory>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet::sglang {

/// `connect`: how long it may take to reach the server, within each call's own time.
std::unique_ptr<Engine> make_engine(std::string name, http::Endpoint endpoint,
                                    std::chrono::milliseconds connect = std::chrono::seconds(5));

}  // namespace ckptd::fleet::sglang
