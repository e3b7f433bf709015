// Which versions leave so that a load fits. Pure: values in, a list or a sentence out.
//
//   leave first          neither kept, nor leased, nor what an engine should serve or was seen to serve; oldest use first
//   are given over next  only with --policy resource: the engines' versions of the arriving NAME, oldest use first
//   stay                 everything else
//
// As few leave as possible, and nobody does when that would not be enough.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/weights/checkpoint_id.h"
#include "proto/control/api.h"

namespace ckptd::operations {

/// A resident version and what speaks for it.
struct Holder {
  /// Becomes free when all its holders leave: versions, and loads that are about to share it.
  struct Segment {
    std::uint32_t number = 0;
    unsigned holders = 1;
  };
  weights::CheckpointId id;
  std::vector<Segment> segments;
  std::uint64_t use = 0;                ///< the smallest was used longest ago
  bool kept = false;
  std::vector<std::string> leased_by;   ///< jobs
  std::vector<std::string> engines;     ///< that should serve it, or were seen to
};

struct Leaving {
  std::size_t holder = 0;  ///< index
  bool given_over = false; ///< it was an engine's: until an update to the arriving version there is no fallback
};

struct Need {
  weights::CheckpointId arriving;
  std::uint64_t missing_segments = 0;
  std::uint64_t segment_bytes = 0;
  proto::control::LoadPolicy policy = proto::control::LoadPolicy::availability;
};

/// Who leaves, in this order. no_space: `refusal`, followed by what holds the memory, why that stays and what to do.
Result<std::vector<Leaving>> choose_who_leaves(const Need& need, const std::vector<Holder>& holders,
                                               const Error& refusal);

}  // namespace ckptd::operations
