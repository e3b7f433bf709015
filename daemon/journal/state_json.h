// Contents <-> the text of state.json. Pure.
//
//   {"format": 2,
//    "engines": [{"name", "kind", "endpoint", "checkpoint", "devices": [..], "target"?, "serving"?, "poisoned",
//                 "follow"?, "wake"?, "previous"?, "listener"?: {"pid", "started"}, "label"?, "lost"?,
//                 "changed_by_others"?, "drained"?, "pause"?, "flush_cache"?, "on_failure"?,
//                 "paused"?, "held"?, "api_key_file"?, "admin_key_file"?, "transfer"?}, ..],
//    "updates": [{"job", "engine", "version", "phase": "opening" | "pushing", "sessions": [session, ..]}, ..],
//    "in_custody": [session, ..],
//    "drained"?}
//
// where session is {"endpoint", "device"}; target, serving and previous are {"id", "identity", "schema",
// "weight_version"?, "forced"?}; follow, changed_by_others, drained and forced are truths, pid and started numbers, and
// all else is text. What has a question mark is
// absent when it has its default (journal.h). Format 1 has only what stands in the first line of an engine, and no
// "drained"; it is read, and becomes format 2 when it is written for the first time.
//
// Reading is strict. A member that this format does not have is refused rather than ignored or preserved: ignoring it
// would lose, at the next write, something that a newer ckptd thought worth keeping (that an engine is in quarantine,
// say), and preserving it would pair it with records that have changed since. A new member is a new format number.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/journal/journal.h"

namespace ckptd::journal {

/// Bytes that are not UTF-8 become U+FFFD: the text of a rank's error must not keep us from writing that it failed.
std::string to_json(const Contents& contents);

/// corrupt, with the byte or the member (as a JSON pointer) that is wrong; unsupported for a newer format.
Result<Contents> from_json(std::string_view text);

}  // namespace ckptd::journal
