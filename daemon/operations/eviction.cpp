#include "daemon/operations/eviction.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "common/units.h"

namespace ckptd::operations {
namespace {

using proto::control::LoadPolicy;

enum class Claim { none, engine, kept, leased };

Claim claim_on(const Holder& holder) {
  if (!holder.leased_by.empty()) return Claim::leased;
  if (holder.kept) return Claim::kept;
  return holder.engines.empty() ? Claim::none : Claim::engine;
}

bool may_be_given_over(const Need& need, const Holder& holder) {
  return need.policy == LoadPolicy::resource && claim_on(holder) == Claim::engine &&
         holder.id.name == need.arriving.name;
}

/// Counts what becomes free while holders are added to those who leave, or taken out again.
class Freed {
 public:
  explicit Freed(const std::vector<Holder>& holders) : holders_(holders) {}
  void add(std::size_t holder) {
    for (const auto& segment : holders_[holder].segments) segments_ += ++left_[segment.number] == segment.holders;
  }
  void remove(std::size_t holder) {
    for (const auto& segment : holders_[holder].segments) segments_ -= left_[segment.number]-- == segment.holders;
  }
  std::uint64_t segments() const { return segments_; }

 private:
  const std::vector<Holder>& holders_;
  std::map<std::uint32_t, unsigned> left_;  ///< by segment: how many of its holders leave
  std::uint64_t segments_ = 0;
};

std::vector<Leaving> in_order(const Need& need, const std::vector<Holder>& holders) {
  std::vector<Leaving> order;
  for (std::size_t i = 0; i < holders.size(); ++i) {
    if (claim_on(holders[i]) == Claim::none) order.push_back({i, false});
    if (may_be_given_over(need, holders[i])) order.push_back({i, true});
  }
  std::ranges::sort(order, {}, [&](const Leaving& leaving) {
    return std::pair(leaving.given_over, holders[leaving.holder].use);
  });
  return order;
}

std::string why_it_stays(const Need& need, const Holder& holder) {
  const auto id = holder.id.show();
  switch (claim_on(holder)) {
    case Claim::leased: return fmt::format("is in use by {}", fmt::join(holder.leased_by, ", "));
    case Claim::kept: return fmt::format("is kept (release it with `ckptctl unkeep {}`)", id);
    case Claim::engine: {
      auto why = fmt::format("is what {} serves or should serve", fmt::join(holder.engines, ", "));
      if (may_be_given_over(need, holder)) return why + " and would be given over";
      if (holder.id.name == need.arriving.name)
        return why + " (load with --policy resource to give it over, without a fallback meanwhile)";
      return why + fmt::format(" (`ckptctl evict {}` takes it away all the same)", id);
    }
    case Claim::none: break;
  }
  return "could leave";
}

/// "m@1 (40.0 GiB, 30.0 GiB of it shared)"
std::string show_size(const Need& need, const Holder& holder) {
  const auto shared = std::ranges::count_if(holder.segments, [](const auto& segment) { return segment.holders > 1; });
  const auto bytes = [&](auto segments) { return show_bytes(static_cast<std::uint64_t>(segments) * need.segment_bytes); };
  return fmt::format("{} ({}{})", holder.id.show(), bytes(holder.segments.size()),
                     shared == 0 ? std::string() : fmt::format(", {} of it shared", bytes(shared)));
}

std::unexpected<Error> not_enough(const Need& need, const std::vector<Holder>& holders, std::uint64_t could_be_free,
                                  const Error& refusal) {
  Error error = refusal;
  std::vector<std::string> reasons;
  for (const auto& holder : holders)
    reasons.push_back(show_size(need, holder) + " " + why_it_stays(need, holder));
  error.sentence += fmt::format(". Nothing was evicted, since {} more are needed and {} could be freed: {}",
                                show_bytes(need.missing_segments * need.segment_bytes),
                                show_bytes(could_be_free * need.segment_bytes),
                                reasons.empty() ? "no version is resident, running loads hold the memory"
                                                : fmt::format("{}", fmt::join(reasons, "; ")));
  return std::unexpected(std::move(error));
}

}  // namespace

Result<std::vector<Leaving>> choose_who_leaves(const Need& need, const std::vector<Holder>& holders,
                                               const Error& refusal) {
  Freed freed(holders);
  std::vector<Leaving> leaving;
  for (const auto& next : in_order(need, holders)) {
    if (freed.segments() >= need.missing_segments) break;
    freed.add(next.holder);
    leaving.push_back(next);
  }
  if (freed.segments() < need.missing_segments) return not_enough(need, holders, freed.segments(), refusal);
  // A small version that was used long ago stays, if a larger one has to leave in any case.
  for (auto i = leaving.size(); i-- > 0;) {
    freed.remove(leaving[i].holder);
    if (freed.segments() >= need.missing_segments)
      leaving.erase(leaving.begin() + static_cast<std::ptrdiff_t>(i));
    else
      freed.add(leaving[i].holder);
  }
  return leaving;
}

}  // namespace ckptd::operations
