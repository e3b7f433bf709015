// Decides, from values alone, what state an engine is in and what is to be done about it. Tested as a table; nothing is
// called here, and the clock is the caller's.
//
//   state      the engine ...
//   waiting    has not what it should have, or nothing yet: `why` says what is missing
//   serving    was seen, and holds exactly what it was given
//   updating   is being given a version by a job
//   asleep     has released its memory: nothing is pushed into that
//   poisoned   may hold a mixture of versions
//   draining   was taken out of service by an operator
//   gone       was there and cannot be reached now
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "daemon/fleet/admission.h"
#include "daemon/fleet/engine.h"

namespace ckptd::fleet {

enum class State { waiting, serving, updating, asleep, poisoned, draining, gone };
std::string_view name_of(State state);

enum class Next {
  nothing,
  push,            ///< the target, by an ordinary update
  wake_then_push,  ///< the same, after its memory for weights was given back
  resume,          ///< ckptd has paused it, and it holds exactly one version
  wait,            ///< for what `why` names: looked at again
  tell,            ///< only a person can go on from here: `why` says how
};
std::string_view name_of(Next next);

/// What is done with a server that sleeps when it is to be given another version.
enum class Wake {
  none,     ///< it is left alone until somebody wakes it
  weights,  ///< its memory for weights is; the rest is the sleeper's own affair
  all,      ///< everything is, once the weights are there
};
std::string_view name_of(Wake wake);
std::optional<Wake> wake_named(std::string_view name);

/// One look at a server: what it told, or why it did not.
struct Look {
  std::optional<Observation> seen = {};
  Error error = {};         ///< of a look without an answer
  bool returned = false;    ///< since it was given its weights it could not be reached at least once
  bool fell_asleep = false; ///< since then it was seen awake, and then asleep
};

/// By what an engine is recognised as the one that was given its weights.
struct Mark {
  std::optional<ProcessId> listener = {};
  std::string label = {};  ///< that it told afterwards; empty: it told none
};

/// What became of what an engine was given.
struct Kept {
  enum class Verdict {
    same,       ///< it is still there
    unproven,   ///< nothing speaks against it, but neither process nor label could be compared
    restarted,  ///< the server is another process: it holds what it was started with
    changed,    ///< the same server was given something else by somebody else
    released,   ///< its memory was released: what is in there now is nobody's weights
  };
  Verdict verdict = Verdict::unproven;
  std::string how = {};  ///< it is known, when it is not the same
};

/// Compares a look that was answered with the mark. The process decides where both are known, then the label; without
/// either, a server that was away has been restarted.
Kept compare(const Mark& mark, const Look& look);

/// How that is said of memory that was released: who tells why an engine has lost its weights has this sentence alone.
inline constexpr std::string_view kReleased = "its memory was released";

/// Where the target is now.
enum class Residency { resident, loading, missing };

struct Facts {
  bool follow = true;       ///< the daemon may act by itself on this engine
  bool drained = false;     ///< it, or the whole node
  bool updating = false;    ///< a job is at it
  std::optional<VersionRef> target = {};
  std::optional<VersionRef> given = {};  ///< the version that it was given last, in full
  std::string lost = {};    ///< why it does not hold that any more, or empty
  bool changed_by_others = false;   ///< `lost` is because somebody else changed its weights
  bool released = false;            ///< `lost` is because somebody put it to sleep
  std::string poisoned = {};  ///< why it may hold a mixture, or empty
  bool paused_by_us = false;
  bool held = false;        ///< poisoned, and to be left as it is until somebody says otherwise
  std::optional<Look> look = {};  ///< absent: nobody has looked yet
  Residency target_is = Residency::missing;
  Wake wake = Wake::none;
  std::string unsuitable = {};  ///< why this server cannot be updated at all, or empty
  std::string trouble = {};     ///< why its target is known to go wrong with this server, and what to type; or empty
  std::string turn = {};       ///< whose turn it is instead of this one's, to be out of service, or empty
  std::string held_back = {};  ///< the last attempt failed, and the next one is not due yet: what is to be said of that
};

struct Decision {
  State state = State::waiting;
  Next next = Next::nothing;
  std::string why = {};  ///< of state and next, one sentence for people; empty when there is nothing to say
  bool ready = false; ///< requests may be sent to it: it serves exactly one version, and nobody holds it back
  std::string because = {};  ///< of a push: the reason alone, for the job that does it
  bool operator==(const Decision&) const = default;
};

Decision decide(const Facts& facts);

}  // namespace ckptd::fleet
