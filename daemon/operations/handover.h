// Versions that engines still have and that were given over to a successor (load --policy resource), so that there is
// no fallback. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/weights/checkpoint_id.h"

namespace ckptd::operations {

struct Handover {
  weights::CheckpointId given;  ///< what left
  std::string source_uri;       ///< where it can be loaded from again
  weights::CheckpointId to;     ///< what it left for
  std::string job;              ///< that loads `to`
};

enum class Arrival { loading, resident, missing };  ///< missing: the load failed, or the version has left again

/// What status says of it. `engines` still serve what was given over, or should: without any there is nothing to say.
std::optional<std::string> handover_note(const Handover& handover, Arrival arrival,
                                         const std::vector<std::string>& engines);

/// How to undo an eviction, for people.
std::string how_to_load_again(const weights::CheckpointId& id, const std::string& source_uri);

}  // namespace ckptd::operations
