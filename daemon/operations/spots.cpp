#include "daemon/operations/spots.h"

#include <algorithm>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/deadline.h"

namespace ckptd::operations {
namespace {

/// The first bytes of a tensor, put together from where they rest.
std::vector<std::byte> first_bytes(const catalogue::Contents& contents, const weights::Tensor& tensor, std::uint64_t bytes) {
  std::vector<std::byte> copy;
  const auto begin = contents.layout.resting_offset(tensor.extent);
  while (copy.size() < bytes) {
    const auto piece = contents.resting(begin + copy.size(), bytes - copy.size());
    if (piece.empty()) break;
    copy.insert(copy.end(), piece.begin(), piece.end());
  }
  return copy;
}

fleet::RankChecksums& rank_named(std::vector<fleet::RankChecksums>& ranks, const std::string& name) {
  const auto at = std::ranges::find(ranks, name, &fleet::RankChecksums::rank);
  return at != ranks.end() ? *at : ranks.emplace_back(fleet::RankChecksums{.rank = name});
}

}  // namespace

std::vector<std::string> SpotCheck::different() const {
  std::vector<std::string> names;
  for (const auto& [name, agreement] : tensors)
    if (agreement == fleet::Agreement::different) names.push_back(name);
  return names;
}

Result<SpotCheck> check_spots(fleet::Engine& engine, const catalogue::Contents& contents,
                              std::chrono::milliseconds timeout) {
  const auto deadline = Deadline::in(timeout);
  SpotCheck check;
  std::optional<Error> refused;
  for (const auto i : fleet::spots_in(contents.manifest)) {
    const auto& tensor = contents.manifest.tensors[i];
    const auto count = std::min<std::uint64_t>(tensor.shape[0], fleet::kMostSpotValues);
    auto told = engine.values(tensor.name, count, std::chrono::milliseconds(deadline.poll_timeout_ms()));
    if (!told && told.error().kind != ErrorKind::unsupported) return std::unexpected(std::move(told).error());
    if (!told) {
      refused = std::move(told).error();
      check.not_told.push_back(tensor.name);
      continue;
    }
    const auto bytes = first_bytes(contents, tensor, count * weights::bits_of(tensor.dtype) / 8);
    for (const auto& rank : *told) {
      const auto agreement = fleet::agreement(tensor.dtype, bytes, rank.values);
      auto& worst = check.tensors.emplace(tensor.name, agreement).first->second;
      worst = std::max(worst, agreement);
      rank_named(check.ranks, rank.rank).by_tensor[tensor.name] = fleet::checksum_of(rank.values);
      check.values += rank.values.size();
    }
  }
  if (!check.tensors.empty()) return check;
  if (refused) return std::unexpected(*std::move(refused));
  return fail(ErrorKind::unsupported, "the version has no small weights of norms, whose values could be compared");
}

nlohmann::json shown(const SpotCheck& check) {
  nlohmann::json tensors = nlohmann::json::object(), ranks = nlohmann::json::array();
  for (const auto& [name, agreement] : check.tensors) tensors[name] = fleet::name_of(agreement);
  for (const auto& rank : check.ranks) ranks.push_back(rank.rank);
  return {{"ranks", ranks}, {"tensors", tensors}, {"values", check.values}, {"not_told", check.not_told}};
}

std::string complaint_about(const SpotCheck& check, const std::string& version) {
  const auto different = check.different();
  if (different.empty()) return {};
  return fmt::format("of {} small tensors whose values it tells, {} are not those of {} ({})", check.tensors.size(),
                     different.size(), version, fmt::join(different, ", "));
}

}  // namespace ckptd::operations
