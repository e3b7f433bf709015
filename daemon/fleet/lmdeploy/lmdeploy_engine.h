// LMDeploy's PyTorch engine: POST /update_weights_from_ipc, between /sleep and /wakeup. Requests and answers are in
// proto/lmdeploy.
//
// It takes weights only while its KV cache is released: pause() is /sleep and waking the weights, resume() is waking the
// cache, and with it requests begin. It has no label for weights and tells no checksums.
#pragma once

#include <memory>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet::lmdeploy {

std::unique_ptr<Engine> make_engine(Address address);

}  // namespace ckptd::fleet::lmdeploy
