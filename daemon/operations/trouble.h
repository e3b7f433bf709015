// What is known to go wrong with one update of one engine, as far as its server tells of itself. Internal to the room.
// Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/fleet/known_trouble.h"
#include "daemon/operations/service.h"

namespace ckptd::operations {

/// Null: nothing is known. `transfers`: this daemon can give weights by a server's own transfer.
const fleet::KnownTrouble* trouble_of(const journal::EngineRecord& engine, const fleet::Description& about,
                                      const fleet::Model& model, bool external, bool transfers);

/// Of an update whose trigger somebody else holds: that it serves fewer sessions than each rank will open. Empty: it does
/// not.
std::string too_few_sessions(const EnginePush& push, const fleet::Description& about);

}  // namespace ckptd::operations
