// After a push that went well: whether the ranks have unmapped their arenas, as their receipts tell.
//
// A rank's last word was spoken, so this is looked for and not heard. Most have unmapped the memory before they acknowledge
// the release; checkpoint-engine before 0.4.0 does it after its last acknowledgement. It belongs to the arenas and not to
// the update: whoever calls this has written down before that the engine has its weights.
#pragma once

#include <stop_token>

#include "daemon/pipeline/push.h"

namespace ckptd::pipeline {

/// Blocks until every hold of `report` has let go, the deadline or a stop request. Takes note in the lanes: seen or missing,
/// and a span. A hold that has let go leaves the report. Not for a push that failed, whose ranks are not waited for.
void await_receipts(Report& report, Deadline deadline, std::stop_token stop);

}  // namespace ckptd::pipeline
