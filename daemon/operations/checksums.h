// What engines told of their weights right after they were given them. Internal to the room. Safe from any thread.
//
// In memory alone, and the newest of each engine: a successor of this daemon has none until the next update.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/fleet/verify.h"
#include "daemon/journal/journal.h"

namespace ckptd::operations {

/// More than that of one engine is not kept.
inline constexpr std::size_t kMostChecksumBytes = 16 << 20;

struct TakenChecksums {
  std::string engine, kind;
  journal::VersionRecord version;
  std::string server;  ///< version of its software: another one may compute them differently. Empty: not known
  std::string job;     ///< whose update it was
  std::chrono::system_clock::time_point at{};
  std::vector<fleet::RankChecksums> ranks;
  bool of_spots = false;  ///< of the values of some small tensors, and not of all that a rank holds
};

/// Can the two be compared at all? Of different kinds, versions, splits or quantisations the sums say nothing.
bool comparable(const TakenChecksums& one, const TakenChecksums& other);

class ChecksumShelf {
 public:
  void keep(TakenChecksums taken);
  void drop(const std::string& engine);
  std::vector<std::shared_ptr<const TakenChecksums>> all() const;             ///< by name of the engine

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const TakenChecksums>> taken_;
};

}  // namespace ckptd::operations
