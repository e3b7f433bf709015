#include "daemon/fleet/suitability.h"

namespace ckptd::fleet {

std::optional<Error> unsuitable(const std::string& kind, const Description& about, std::size_t devices) {
  if (about.unsuitable) return about.unsuitable;
  const bool hides_its_other_ranks = kind == "sglang";
  if (about.nodes > 1 && hides_its_other_ranks)
    return Error{ErrorKind::conflict,
                 fmt::format("its ranks are on {} nodes, and SGLang would answer success for those of this node alone: let "
                             "whoever can reach the daemons of all nodes merge their endpoints into one request (ckptctl "
                             "update --external)",
                             about.nodes)};
  if (about.ranks == 0 || devices == about.ranks || about.nodes > 1) return std::nullopt;
  const auto ranks = fmt::format("it has {} rank{}, and is registered with {} device{}", about.ranks,
                                 about.ranks == 1 ? "" : "s", devices, devices == 1 ? "" : "s");
  if (devices > about.ranks)
    return Error{ErrorKind::conflict,
                 fmt::format("{}, for some of which no rank would ever come: register it with the devices of its ranks "
                             "alone (ckptctl engine add, --devices)",
                             ranks)};
  if (!hides_its_other_ranks) return std::nullopt;  // its answer is a failure then
  return Error{ErrorKind::conflict,
               fmt::format("{}: the other ranks would keep what they have, and SGLang would answer success. Register it "
                           "with the devices of all its ranks (ckptctl engine add, --devices)",
                           ranks)};
}

}  // namespace ckptd::fleet
