// What an engine's record becomes when its target moves, when it was given a version, and when it turns out to hold it
// no longer. Pure, on values of the journal. docs/decisions/0023-life-cycle.md says why.
//
//   target    is moved by a success (update), or at once (engine set, rollback), or once by the configuration
//   serving   is what was given last in full, whether or not it is still there (`lost` says that it is not)
//   previous  is what was given in full before `serving`, and another version
#pragma once

#include "daemon/fleet/decide.h"
#include "daemon/journal/journal.h"

namespace ckptd::operations {

/// A version as fleet names it; absent where there is none.
std::optional<fleet::VersionRef> reference(const std::optional<journal::VersionRecord>& record);

fleet::Mark mark_of(const journal::EngineRecord& engine);

/// An update to `version` succeeded; `mark` is what its server looks like now. `was_ordered`: somebody wants it there; what
/// the daemon gives by itself, or again after a failure, says nothing of where it should be.
void give(journal::EngineRecord& engine, const journal::VersionRecord& version, const fleet::Mark& mark, bool was_ordered);

/// The label that an engine is asked to tell with it; `version` is the VERSION of its id.
std::string label_of(const journal::VersionRecord& given, const std::string& version);

/// What was said when `before` was given is said for `again`, if that is the same version: its label, as far as no other is
/// wanted, and that it was forced.
void give_as_before(journal::VersionRecord& again, const std::optional<journal::VersionRecord>& before);

/// Writes down what a comparison with the mark gave. False when that changes nothing.
bool lose(journal::EngineRecord& engine, const fleet::Kept& kept);

/// An update of this server begins: from here on it is the one that may be left with a mixture.
void meet(journal::EngineRecord& engine, const fleet::Observation& seen);

/// The record of `wanted`, a new or changed registration, with what stays true of `old`.
journal::EngineRecord registered_again(journal::EngineRecord wanted, const journal::EngineRecord& old);

}  // namespace ckptd::operations
