// The requests of an engine, stopped while it is given weights, and let go again. Internal to the room.
//
// Whoever pauses an engine resumes it: one that somebody else has paused stays as it was found. That we paused it is in
// the journal before the engine is asked, so that the successor of a killed daemon knows whose it is to resume. Belongs
// to one thread at a time; begin() and end() block for the engine, each call with timeouts.engine_step.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/fleet/engine.h"
#include "daemon/operations/service.h"

namespace ckptd::operations {

class Standstill {
 public:
  /// All of them outlive it.
  Standstill(journal::Journal& journal, const EnginePush& push, fleet::Engine& engine)
      : journal_(journal), push_(push), engine_(engine) {}

  /// What sleeps because of us is paused, see fleet::pauses_by_sleeping().
  fleet::Observation understood(fleet::Observation seen);
  /// What was seen before end(), as it is after it.
  fleet::Observation resumed(fleet::Observation seen);

  /// Pauses the engine as the push's policy says, unless `seen` shows that nobody is served anyway or that somebody has
  /// paused it. Once only: what follows in the same update finds it as it is. On an error the engine was let go again.
  Result<> begin(const fleet::Observation& seen, std::stop_token stop);

  /// Lets requests go on, if it was us who stopped them. On an error that stays in the journal, and is tried again.
  Result<> end();

  bool ours() const { return ours_; }
  /// What the operator should know: that a mixture may be served meanwhile.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  /// A pause is one of the server that was seen: written without that, it would count as one of the server before, and be
  /// forgotten with it.
  Result<> write(std::string mode, const fleet::Observation* of = nullptr);
  bool left_by_us() const;

  journal::Journal& journal_;
  const EnginePush& push_;
  fleet::Engine& engine_;
  bool begun_ = false, ours_ = false;
  bool sleeps_ = false;  ///< as it was found last, because of us
  std::vector<std::string> warnings_;
};

}  // namespace ckptd::operations
