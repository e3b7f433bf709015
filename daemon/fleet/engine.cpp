#include "daemon/fleet/engine.h"

namespace ckptd::fleet {

std::vector<std::string> known_kinds() {
  return {"sglang"};
}

}  // namespace ckptd::fleet
