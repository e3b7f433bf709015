// How the tensors of a checkpoint are spoken of to a checkpoint-engine worker: as torch_types.h has it.
#pragma once

#include <span>
#include <string>

#include "common/result.h"
#include "daemon/ranks/session.h"
#include "daemon/ranks/torch_types.h"

namespace ckptd::ranks::checkpoint_engine {

/// The list of one bucket as the worker reads it, a pickle. unsupported, naming the tensor, as check_carriable() says it.
Result<std::string> reload_message(std::span<const TensorView> tensors);

/// unsupported, naming the first tensor that a rank could not take: its type, its shape or a name that is not UTF-8.
Result<> check_carriable(const weights::Manifest& manifest);

}  // namespace ckptd::ranks::checkpoint_engine
