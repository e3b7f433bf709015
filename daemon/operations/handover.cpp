#include "daemon/operations/handover.h"

#include <fmt/ranges.h>

namespace ckptd::operations {

std::string how_to_load_again(const weights::CheckpointId& id, const std::string& source_uri) {
  return fmt::format("`ckptctl load {} {}`", id.show(), source_uri);
}

std::optional<std::string> handover_note(const Handover& handover, Arrival arrival,
                                         const std::vector<std::string>& engines) {
  if (engines.empty()) return std::nullopt;
  const auto given = handover.given.show(), to = handover.to.show();
  const auto& name = handover.given.name;
  switch (arrival) {
    case Arrival::loading:
      return fmt::format("{}: no fallback while {} runs: {} was given over to {}", name, handover.job, given, to);
    case Arrival::resident:
      return fmt::format("{}: no fallback until {} {} updated to {} (`ckptctl update {}`): {} was given over to it", name,
                         fmt::join(engines, ", "), engines.size() == 1 ? "is" : "are", to, to, given);
    case Arrival::missing: break;
  }
  return fmt::format("{}: no fallback: {} was given over to {}, which is not resident (see `ckptctl job show {}`); {} "
                     "still {} {}: load it again with {}",
                     name, given, to, handover.job, fmt::join(engines, ", "), engines.size() == 1 ? "has" : "have", given,
                     how_to_load_again(handover.given, handover.source_uri));
}

}  // namespace ckptd::operations
