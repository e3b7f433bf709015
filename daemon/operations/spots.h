// A spot check: values of single small tensors, as an engine tells them, held against a resident version. For engines that
// tell no checksums. Internal to the room; blocks for the engine.
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "daemon/catalogue/catalogue.h"
#include "daemon/fleet/engine.h"
#include "daemon/fleet/spot_check.h"

namespace ckptd::operations {

struct SpotCheck {
  std::vector<fleet::RankChecksums> ranks = {};  ///< of the values that each told
  std::map<std::string, fleet::Agreement> tensors = {};  ///< with the version's, the worst of all ranks
  std::vector<std::string> not_told = {};        ///< tensors of which the server tells nothing
  std::uint64_t values = 0;                      ///< that were compared

  std::vector<std::string> different() const;
};

/// `timeout` is for all of them. unsupported, with the reason, where there is nothing to compare.
Result<SpotCheck> check_spots(fleet::Engine& engine, const catalogue::Contents& contents,
                              std::chrono::milliseconds timeout);

nlohmann::json shown(const SpotCheck& check);

/// What is to be said of an engine whose values are not the version's; empty: they are.
std::string complaint_about(const SpotCheck& check, const std::string& version);

}  // namespace ckptd::operations
