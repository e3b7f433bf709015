#include "daemon/operations/checksums.h"

namespace ckptd::operations {

bool comparable(const TakenChecksums& one, const TakenChecksums& other) {
  const bool same_software = one.server.empty() || other.server.empty() || one.server == other.server;
  return one.kind == other.kind && one.of_spots == other.of_spots && same_software && !one.version.identity.empty() &&
         one.version.identity == other.version.identity && fleet::same_shape(one.ranks, other.ranks);
}

void ChecksumShelf::keep(TakenChecksums taken) {
  auto kept = std::make_shared<const TakenChecksums>(std::move(taken));
  std::lock_guard lock(mutex_);
  taken_[kept->engine] = kept;
}

void ChecksumShelf::drop(const std::string& engine) {
  std::lock_guard lock(mutex_);
  taken_.erase(engine);
}

std::vector<std::shared_ptr<const TakenChecksums>> ChecksumShelf::all() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const TakenChecksums>> all;
  for (const auto& [name, taken] : taken_) all.push_back(taken);
  return all;
}

}  // namespace ckptd::operations
