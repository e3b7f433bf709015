#include "daemon/store/admission.h"

#include <algorithm>
#include <limits>
#include <ranges>

#include "common/units.h"

namespace ckptd::store {
namespace {

/// Negative: so many bytes are missing. Signed, because sizes of memory fit 63 bits.
std::int64_t room_below(const Ceiling& ceiling) {
  auto available = static_cast<std::int64_t>(ceiling.available_bytes);
  return available - static_cast<std::int64_t>(reserve_below(ceiling.total_bytes));
}

std::uint64_t saturating_product(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::uint64_t>::max() : product;
}

}  // namespace

std::uint64_t reserve_below(std::uint64_t total_bytes) { return std::max(256 * kMiB, total_bytes / 50); }

std::optional<std::uint64_t> admissible_bytes(std::uint64_t promised_bytes, std::span<const Ceiling> ceilings) {
  if (ceilings.empty()) return std::nullopt;
  auto room = std::ranges::min(ceilings | std::views::transform(room_below));
  auto positive = static_cast<std::uint64_t>(std::max<std::int64_t>(room, 0));
  return positive - std::min(positive, promised_bytes);
}

Result<> admit_new_memory(std::uint64_t new_bytes, std::uint64_t promised_bytes, std::span<const Ceiling> ceilings) {
  auto admissible = admissible_bytes(promised_bytes, ceilings);
  if (new_bytes == 0 || !admissible || new_bytes <= *admissible) return {};
  const auto& tightest = *std::ranges::min_element(ceilings, {}, room_below);
  auto promised =
      promised_bytes == 0 ? std::string() : fmt::format(", {} are promised to other loads", show_bytes(promised_bytes));
  return std::unexpected(
      Error{ErrorKind::no_space,
            fmt::format("{} of new memory are needed, but {} has {} of {} available{}, and {} stay free for everybody "
                        "else. Evict a version (`ckptctl evict`; its memory is used again), free memory, or raise the "
                        "limit (MemoryMax= of the systemd unit, the container's memory limit) if it is one",
                        show_bytes(new_bytes), tightest.name, show_bytes(tightest.available_bytes),
                        show_bytes(tightest.total_bytes), promised, show_bytes(reserve_below(tightest.total_bytes)))}
          .with_fact("needed_bytes", std::to_string(new_bytes))
          .with_fact("available_bytes", std::to_string(tightest.available_bytes)));
}

Result<> admit_into_budget(std::uint64_t count, std::uint64_t lent, std::uint64_t budget, std::uint64_t segment_bytes) {
  if (lent <= budget && count <= budget - lent) return {};
  auto needed = saturating_product(count, segment_bytes);
  bool ever = count <= budget;
  return std::unexpected(
      Error{ErrorKind::no_space,
            fmt::format("{} segments of {} ({}) do not fit into the store's budget of {}, of which {} are in use. {}",
                        count, show_bytes(segment_bytes), show_bytes(needed), show_bytes(budget * segment_bytes),
                        show_bytes(lent * segment_bytes),
                        ever ? "Evict a version with `ckptctl evict`, or raise --store-budget"
                             : "Start with a larger --store-budget: evicting does not help")}
          .with_fact("needed_bytes", std::to_string(needed))
          .with_fact("budget_bytes", std::to_string(budget * segment_bytes))
          .with_fact("lent_bytes", std::to_string(lent * segment_bytes)));
}

}  // namespace ckptd::store
