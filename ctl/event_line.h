// One event as one line for people. Pure.
#pragma once

#include <string>
#include <string_view>

#include "proto/control/events.h"

namespace ckptd::ctl {

/// 14:03:14  load-17        succeeded  loaded llama@3, 1.25 GiB, 290 tensors in 1.1 s
/// 14:03:15  engine e0      updating   to llama@3 by update-18
/// 14:03:16  llama@3        resident   1.25 GiB
///
/// Without a line break inside, and never shortened: what is longer than a terminal wraps. `clock` is shown as it is.
std::string event_line(const proto::control::Event& event, std::string_view clock);

}  // namespace ckptd::ctl
