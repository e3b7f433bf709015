// What becomes of an update's arenas when its lanes have ended, and what is said of ranks that may still map them.
// Internal to the room. Does not block; see pipeline::Arenas.
#pragma once

#include <string>
#include <vector>

#include "daemon/operations/service.h"
#include "daemon/pipeline/arena.h"
#include "daemon/pipeline/push.h"

namespace ckptd::operations {

/// One sentence for each rank that has its weights and was not seen to let go of its arena.
std::vector<std::string> missing_receipts(const EnginePush& push, const pipeline::Report& report);

/// Kept, freed or put into quarantine; `arenas` is empty then. A rank whose session did not end well has not even said
/// that it released the memory, and after an update that failed nobody has waited for receipts: then one is no question of
/// configuration.
void settle_arenas(const EnginePush& push, bool pushed, const pipeline::Report& report,
                   std::vector<pipeline::ArenaLoan>& arenas);

}  // namespace ckptd::operations
