#include "daemon/config/suggestion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace ckptd::config {
namespace {

/// Levenshtein's: the letters to insert, delete or replace.
std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < to.size(); ++j) {
      auto replaced = diagonal + (from[i] == to[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }

/// A key that stands in the wrong table is as near as a typing error.
std::size_t distance(std::string_view unknown, std::string_view known) {
  return std::min(edit_distance(unknown, known), edit_distance(last_part(unknown), last_part(known)) + 1);
}

}  // namespace

std::string suggestion(std::string_view unknown, const std::vector<std::string>& known) {
  // A long name costs a product of lengths, and nothing of ours is near it.
  if (!known.empty() && unknown.size() <= 100) {
    auto nearest = std::ranges::min_element(known, {}, [&](const auto& name) { return distance(unknown, name); });
    if (distance(unknown, *nearest) <= std::max<std::size_t>(2, last_part(unknown).size() / 2))
      return fmt::format("did you mean '{}'?", *nearest);
  }
  return fmt::format("there are: {}", fmt::join(known, ", "));
}

}  // namespace ckptd::config
