#include "daemon/fleet/verify.h"

#include <fmt/ranges.h>

#include <map>
#include <set>

namespace ckptd::fleet {
namespace {

constexpr std::size_t kNamed = 5;  ///< tensors of a rank, and ranks of a sentence, that are named

using ByTensor = std::map<std::string, std::string>;
using ByRank = std::map<std::string, const ByTensor*>;

ByRank by_rank(const std::vector<RankChecksums>& checksums) {
  ByRank ranks;
  for (const auto& rank : checksums) ranks.emplace(rank.rank, &rank.by_tensor);
  return ranks;
}

/// `both` counts the tensors that both have.
RankDifference compare_rank(const std::string& rank, const ByTensor& now, const ByTensor& other, std::size_t& both) {
  RankDifference difference{.rank = rank};
  for (const auto& [name, sum] : now) {
    const auto at = other.find(name);
    if (at == other.end()) {
      ++difference.more;
      continue;
    }
    ++both;
    if (at->second == sum) continue;
    ++difference.differing;
    if (difference.tensors.size() < kNamed) difference.tensors.push_back(name);
  }
  for (const auto& [name, sum] : other) difference.missing += now.contains(name) ? 0 : 1;
  return difference;
}

std::string show(const RankDifference& difference) {
  std::vector<std::string> parts;
  if (difference.differing > 0)
    parts.push_back(fmt::format("differs in {} {} ({}{})", difference.differing,
                                difference.differing == 1 ? "tensor" : "tensors", fmt::join(difference.tensors, ", "),
                                difference.differing > difference.tensors.size() ? ", .." : ""));
  if (difference.missing > 0) parts.push_back(fmt::format("lacks {} of them", difference.missing));
  if (difference.more > 0) parts.push_back(fmt::format("has {} more", difference.more));
  return fmt::format("rank {} {}", difference.rank, fmt::join(parts, " and "));
}

}  // namespace

Comparison compare(const std::vector<RankChecksums>& now, const std::vector<RankChecksums>& other) {
  const auto mine = by_rank(now), theirs = by_rank(other);
  std::set<std::string> names;
  for (const auto* side : {&mine, &theirs})
    for (const auto& [name, tensors] : *side) names.insert(name);
  Comparison comparison;
  const ByTensor none;
  for (const auto& name : names) {
    const auto here = mine.find(name), there = theirs.find(name);
    if (here != mine.end() && there != theirs.end()) ++comparison.ranks;
    auto difference = compare_rank(name, here == mine.end() ? none : *here->second,
                                   there == theirs.end() ? none : *there->second, comparison.tensors);
    if (difference.differing + difference.missing + difference.more > 0)
      comparison.differences.push_back(std::move(difference));
  }
  return comparison;
}

bool same_shape(const std::vector<RankChecksums>& one, const std::vector<RankChecksums>& other) {
  const auto mine = by_rank(one), theirs = by_rank(other);
  if (mine.size() != theirs.size()) return false;
  for (const auto& [name, tensors] : mine) {
    const auto at = theirs.find(name);
    if (at == theirs.end() || at->second->size() != tensors->size()) return false;
    for (const auto& [tensor, sum] : *tensors)
      if (!at->second->contains(tensor)) return false;
  }
  return true;
}

std::string show(const Comparison& comparison) {
  std::vector<std::string> parts;
  for (const auto& difference : comparison.differences) {
    if (parts.size() == kNamed) {
      parts.push_back(fmt::format("{} more ranks differ as well", comparison.differences.size() - kNamed));
      break;
    }
    parts.push_back(show(difference));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::size_t bytes_of(const std::vector<RankChecksums>& checksums) {
  std::size_t bytes = 0;
  for (const auto& rank : checksums) {
    bytes += rank.rank.size();
    for (const auto& [name, sum] : rank.by_tensor) bytes += name.size() + sum.size();
  }
  return bytes;
}

}  // namespace ckptd::fleet
