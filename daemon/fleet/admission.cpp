#include "daemon/fleet/admission.h"

#include <fmt/ranges.h>

namespace ckptd::fleet {

Result<> admit(const Candidate& candidate, const std::string& wanted_name, const VersionRef& wanted,
               const std::vector<std::string>& differences, bool force) {
  if (force) return {};
  if (candidate.checkpoint != wanted_name)
    return fail(ErrorKind::conflict,
                "engine {} is registered for checkpoint {}, not {}: register it again (ckptctl engine add) or pass "
                "--force",
                candidate.engine, candidate.checkpoint, wanted_name);
  if (!candidate.serving || candidate.serving->schema == wanted.schema) return {};
  const auto known = differences.empty() ? std::string("the list of what it serves is no longer known in full")
                                         : fmt::format("{}", fmt::join(differences, "; "));
  return fail(ErrorKind::conflict,
              "{} has other names, shapes or dtypes than {}, which engine {} serves ({}); the engine was not touched. "
              "Pass --force if the engine can load it all the same",
              wanted.id, candidate.serving->id, candidate.engine, known);
}

}  // namespace ckptd::fleet
