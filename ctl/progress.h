// What a waiting operator sees of a job: pure functions of values, and the driver that writes them to stderr.
//
// On a terminal one line is redrawn in place, each time with a single write and without clearing first, so that it does
// not flicker; the cursor is never hidden, so that nothing needs repair if we are killed. Elsewhere plain lines appear
// on every change of stage and otherwise at most every five seconds.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <string>

#include "common/deadline.h"
#include "ctl/console.h"
#include "proto/control/api.h"

namespace ckptd::ctl {

/// Bytes per second over the last few seconds of one stage. A new stage or a count that went back starts afresh.
class RateMeter {
 public:
  /// The rate as of now; nothing while it is not known yet.
  std::optional<double> add(const proto::control::Job& job, Clock::time_point now);

 private:
  struct Sample {
    Clock::time_point at;
    std::uint64_t done_bytes;
  };
  std::string stage_;
  std::deque<Sample> samples_;
};

struct ProgressView {
  std::size_t width = 80;  ///< columns of the terminal
  bool utf8 = false;
  double elapsed_seconds = 0;                     ///< since the job began
  std::optional<double> rate_bytes_per_second{};  ///< unknown: left out
};

/// load-17  reading  [#########           ]  45%  412 MiB / 910 MiB  1.22 GB/s  ETA 1 s
///
/// Takes at most width - 1 columns: a character in the last one makes some terminals wrap. What does not fit goes in
/// the order ETA, rate, bytes, bar; a job without a total has no bar and shows how long it has been at it.
std::string progress_line(const proto::control::Job& job, const ProgressView& view);

/// load-17: reading, 412 MiB of 910 MiB (45%), 1.22 GB/s, ETA 1 s
std::string plain_progress_line(const proto::control::Job& job, const ProgressView& view);

enum class ProgressMode { silent, lines, bar };

class ProgressDisplay {
 public:
  ProgressDisplay(const Console& console, ProgressMode mode) : console_(console), mode_(mode) {}
  ProgressDisplay(const ProgressDisplay&) = delete;  // the bar on the screen has one owner
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  ~ProgressDisplay() { finish(); }

  void show(const proto::control::Job& job);
  /// Takes the bar off the screen. Idempotent.
  void finish();

 private:
  void show_line(const proto::control::Job& job, const ProgressView& view, Clock::time_point now);

  const Console& console_;
  ProgressMode mode_;
  RateMeter meter_;
  bool drawn_ = false;
  std::optional<std::string> last_stage_;
  Clock::time_point last_line_{};
};

}  // namespace ckptd::ctl
