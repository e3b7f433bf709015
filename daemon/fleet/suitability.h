// Can a server be updated by ckptd's own call, on the devices that it was registered with? Pure.
//
// What it cannot take at all it tells itself (Description::unsuitable). Here is what only the two together show: that its
// ranks and the devices do not go together. SGLang answers for the first of its ranks alone; one that was given no endpoint
// keeps its old weights, and the answer is success (python/sglang/srt/model_executor/model_runner_components/
// weight_updater.py of 0.5.23). And an endpoint at which no rank will ever ask is waited for until the deadline.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "common/result.h"
#include "daemon/fleet/engine.h"

namespace ckptd::fleet {

/// unsupported: this server takes no weights as it was started. conflict: its ranks and the `devices` of this node that it
/// is registered with do not go together. Each with what to change, and without the engine's name. Nothing is said of what
/// the server does not tell.
std::optional<Error> unsuitable(const std::string& kind, const Description& about, std::size_t devices);

}  // namespace ckptd::fleet
