#include "daemon/plan/owners.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace ckptd::plan {

Owners::Owners(std::vector<int> member_nodes, std::uint64_t most_ahead_bytes)
    : nodes_(std::move(member_nodes)),
      most_ahead_bytes_(most_ahead_bytes),
      bytes_(nodes_.size()),
      last_(static_cast<std::uint32_t>(nodes_.size()) - 1) {}

std::uint32_t Owners::next(int node, std::uint64_t bytes) {
  const auto members = static_cast<std::uint32_t>(nodes_.size());
  // From the one behind the last owner on, so that members that are alike take turns.
  std::optional<std::uint32_t> near, any;
  for (std::uint32_t step = 1; step <= members; ++step) {
    const auto member = (last_ + step) % members;
    if (member == last_ && members > 1) continue;
    if (!any || bytes_[member] < bytes_[*any]) any = member;
    if (node == kAnywhere || nodes_[member] != node) continue;
    if (!near || bytes_[member] < bytes_[*near]) near = member;
  }
  const auto least = *std::ranges::min_element(bytes_);
  const auto owner = near && bytes_[*near] - least < most_ahead_bytes_ ? *near : *any;
  bytes_[owner] += bytes;
  last_ = owner;
  return owner;
}

}  // namespace ckptd::plan
