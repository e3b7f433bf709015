// SGLang: POST /update_weights_from_ipc and what goes with it. Requests and answers are in proto/sglang.
//
// What SGLang does not tell: whether its memory is released (observe() never says asleep), and, before 0.5.23, whether it
// is paused or still starting. A server that calls itself unhealthy counts as starting: it takes weights, and serves nobody.
#pragma once

#include <memory>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet::sglang {

std::unique_ptr<Engine> make_engine(Address address);

}  // namespace ckptd::fleet::sglang
