// How an engine is treated during an update: what it is registered with, and what one update wants otherwise. Internal to
// the room. Pure.
#pragma once

#include "common/result.h"
#include "daemon/fleet/policy.h"
#include "daemon/journal/journal.h"
#include "proto/control/api.h"

namespace ckptd::operations {

/// invalid_argument for words that are none, for a pause that the kind does not know, and for one that contradicts the
/// flush of the cache. `request` may be of no update at all: then the registration alone is judged.
Result<fleet::Policy> policy_of(const journal::EngineRecord& engine, const proto::control::UpdateRequest& request);

}  // namespace ckptd::operations
