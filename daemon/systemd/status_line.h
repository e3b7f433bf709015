// What the daemon does, in one line: what `systemctl status ckptd` shows. Pure.
#pragma once

#include <string>

#include "proto/control/api.h"

namespace ckptd::systemd {

/// "serving 2 versions to 3 engines"; before all preloads are there "loading: 1 of 3 preloads resident; ...". What an
/// operator should look at follows: poisoned engines, a reload that was refused. No line breaks, at most 400 bytes.
std::string status_line(const proto::control::Status& status);

}  // namespace ckptd::systemd
