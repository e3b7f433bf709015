// Waiting for the end of a job, with progress: the job's events, and where they cannot be had (an older daemon, too many
// who follow) long polls of a second each.
//
// Ends when the job has ended, when the stop token is signalled (the job goes on), at the deadline, or with an error
// when the daemon is gone. It never spins, also when the daemon does not honour the wait.
#pragma once

#include <optional>
#include <stop_token>

#include "common/deadline.h"
#include "ctl/client.h"
#include "ctl/progress.h"

namespace ckptd::ctl {

bool has_ended(const api::Job& job);

struct Waited {
  Answer<api::Job> last;  ///< the job as last seen
  bool detached = false;  ///< the stop token ended the wait
};

/// Errors: unavailable when the daemon went away or came back without this job, timed_out at the deadline, and what a
/// request can end with; all name the job in sentence and facts. How the job itself ended is in its value.
Result<Waited> wait_for_job(const Client& client, Answer<api::Job> job, std::optional<Deadline> deadline,
                            std::stop_token stop, ProgressDisplay& display);

/// The error of a job that did not succeed, with its id among the facts.
Error error_of(const api::Job& job);

}  // namespace ckptd::ctl
