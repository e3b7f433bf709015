// What is known to go wrong with one update of one engine, as far as its server tells of itself. Internal to the room.
// Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/fleet/known_trouble.h"
#include "daemon/operations/service.h"

namespace ckptd::operations {

inline constexpr const char *kByIpc = "ipc", *kByNccl = "nccl";  ///< fleet::Description::weight_transfer

/// Is it given weights by its own transfer? "auto" takes the server's own way where it offers one: it puts a quantised model
/// together again as at its start, which loading over a live model does not. By NCCL one device sends to all workers,
/// wherever they are; an engine that has several devices here is one whose workers the extension reaches.
bool goes_natively(const journal::EngineRecord& engine, const fleet::Description& about, std::size_t devices);

/// Null: nothing is known.
const fleet::KnownTrouble* trouble_of(const journal::EngineRecord& engine, const fleet::Description& about,
                                      const fleet::Model& model, fleet::Way way);

/// Of an update whose trigger somebody else holds: that it serves fewer sessions than each rank will open. Empty: it does
/// not.
std::string too_few_sessions(const EnginePush& push, const fleet::Description& about);

}  // namespace ckptd::operations
