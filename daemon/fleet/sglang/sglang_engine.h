// SGLang: POST /update_weights_from_ipc, GET /ping. Requests and answers are in proto/sglang.
#pragma once

#include <memory>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet::sglang {

std::unique_ptr<Engine> make_engine(std::string name, http::Endpoint endpoint);

}  // namespace ckptd::fleet::sglang
