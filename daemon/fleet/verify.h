// Do two statements of what ranks hold agree? Pure.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "daemon/fleet/engine.h"

namespace ckptd::fleet {

/// What one rank holds differently from the same rank of the other statement.
struct RankDifference {
  std::string rank;
  std::size_t differing = 0;                ///< tensors with another checksum
  std::vector<std::string> tensors = {};    ///< the first of them, by name
  std::size_t missing = 0, more = 0;        ///< tensors that only the other has, that only this one has
};

struct Comparison {
  std::size_t ranks = 0, tensors = 0;  ///< that both know, of all ranks together
  std::vector<RankDifference> differences = {};
  bool equal() const { return differences.empty(); }
};

/// Ranks are matched by name, and so are tensors within a rank. A rank that one of the two does not have has all its
/// tensors missing, or more.
Comparison compare(const std::vector<RankChecksums>& now, const std::vector<RankChecksums>& other);

/// Have both the same ranks with the same tensors, whatever their checksums? Only then can two engines be compared:
/// others are split or quantised differently.
bool same_shape(const std::vector<RankChecksums>& one, const std::vector<RankChecksums>& other);

/// As in "rank tp0 differs in 3 of its tensors (a, b, c)"; of many ranks the first few.
std::string show(const Comparison& comparison);

/// The bytes that names and checksums take.
std::size_t bytes_of(const std::vector<RankChecksums>& checksums);

}  // namespace ckptd::fleet
