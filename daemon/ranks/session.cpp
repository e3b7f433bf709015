#include "daemon/ranks/session.h"

namespace ckptd::ranks {

std::string_view name_of(Step step) {
  switch (step) {
    case Step::connect: return "connect";
    case Step::offer: return "offer";
    case Step::reload: return "reload";
    case Step::release: return "release";
    case Step::finish: return "finish";
  }
  return "unknown";
}

}  // namespace ckptd::ranks
