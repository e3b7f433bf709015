// Decides, from values alone, whether an engine may be given a version. Tested as a table; nothing is called here.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace ckptd::fleet {

struct VersionRef {
  std::string id;  ///< NAME@VERSION
  std::string identity, schema;
};

struct Candidate {
  std::string engine;
  std::string checkpoint;            ///< NAME that the engine is registered for
  std::optional<VersionRef> serving;
};

/// `differences` says how `wanted`'s names, dtypes and shapes differ from what is served, if that is still known.
/// conflict when the engine is registered for another NAME, or when the schemas differ, unless `force`. A poisoned
/// engine may be given any version that fits: a full update is what heals it.
Result<> admit(const Candidate& candidate, const std::string& wanted_name, const VersionRef& wanted,
               const std::vector<std::string>& differences, bool force);

}  // namespace ckptd::fleet
