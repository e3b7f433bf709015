// The words for an engine's condition, the same in every command.
#pragma once

#include <string>

#include "proto/control/api.h"

namespace ckptd::ctl {

bool is_poisoned(const proto::control::Engine& engine);

/// Its state and the job behind it; poisoned in capitals, since it must not be overlooked in a column of lower-case
/// words.
std::string state_of(const proto::control::Engine& engine);

/// The daemon is going to give it its target: there is something to wait for.
bool heals_by_itself(const proto::control::Engine& engine);

/// What an operator does about a poisoned engine.
std::string cure_for(const proto::control::Engine& engine);

}  // namespace ckptd::ctl
