// How an engine is treated while it is given a version, and what becomes of it when that has ended. Pure.
//
// Whoever pauses an engine resumes it: an engine that somebody else has paused stays as it was found. One that we paused
// is not resumed before it holds exactly one version.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "daemon/fleet/engine.h"

namespace ckptd::fleet {

enum class OnFailure {
  repush,  ///< give it the last good version again, once
  hold,    ///< leave it as it is: paused, if we paused it
};
std::string_view name_of(OnFailure on_failure);
std::optional<OnFailure> on_failure_named(std::string_view name);

struct Policy {
  std::optional<Pause> pause;  ///< absent: default_pause(), where the server can do that
  bool flush_cache = true;
  OnFailure on_failure = OnFailure::repush;
  bool operator==(const Policy&) const = default;
};

/// What suits a kind best: no request is answered by a mixture, and none is lost where the kind can do that.
Pause default_pause(std::string_view kind);

/// LMDeploy has no other pause: what sleeps because of us is paused, and nobody's memory was released.
bool pauses_by_sleeping(std::string_view kind);

/// How one update of one engine ended.
struct Ended {
  bool succeeded = false;
  bool mixture = false;    ///< it was sent weights and did not take all of them
  bool cancelled = false;  ///< somebody ended the job, or the daemon ends
  bool repushed = false;   ///< this was the push of the last good version
  bool last_good_is_resident = false;
};
enum class After {
  resume,  ///< it holds exactly one version
  repush,
  hold,    ///< it may hold a mixture, and nothing more is tried now
};
After after(const Ended& ended, OnFailure on_failure);

/// One engine of an update of several.
struct Rolling {
  enum class Step { pending, running, done, failed };
  Step step = Step::pending;
  bool serves = false;      ///< now: before its update whether anybody is served by it, after it whether anybody is again
};
/// Which of the pending ones may begin, so that at most `max_unavailable` of those that serve are out of service at
/// once; 0: no such bound. Those that serve nobody begin at once. Empty while others run, or when nothing may begin any
/// more because too many have failed.
std::vector<std::size_t> may_begin(std::span<const Rolling> engines, std::uint64_t max_unavailable);

/// How many may be out of service at once when nobody said: one at a time as soon as several serve.
std::uint64_t default_max_unavailable(std::span<const Rolling> engines);

}  // namespace ckptd::fleet
