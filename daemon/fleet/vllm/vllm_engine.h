// vLLM with checkpoint-engine's worker extension: POST /collective_rpc and the routes of its development mode. Requests
// and answers are in proto/vllm.
//
// Those routes are guarded by no key (upstream's middleware guards /v1 and the like alone), so such a server belongs on a
// loopback address; a key that is configured is sent all the same, for whoever stands between.
#pragma once

#include <memory>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet::vllm {

std::unique_ptr<Engine> make_engine(Address address);

}  // namespace ckptd::fleet::vllm
