// Which member uploads which bucket of a broadcast. Pure.
//
// A member's link to host memory is shortest to its own NUMA node: a bucket that lies on a node goes to a member there, as
// long as that one is not far ahead of the others. Two buckets in a row have two owners, whatever their nodes: an arena
// holds few buckets at once, and each owner has a link of its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ckptd::plan {

class Owners {
 public:
  static constexpr int kAnywhere = -1;

  /// `member_nodes`: where each member is, kAnywhere if that is not known. A member is given no bucket of its node any
  /// more once it is `most_ahead_bytes` ahead of the one that has least.
  Owners(std::vector<int> member_nodes, std::uint64_t most_ahead_bytes);

  /// The owner of the next bucket, which lies on `node`.
  std::uint32_t next(int node, std::uint64_t bytes);

  /// What each member has to upload so far.
  std::span<const std::uint64_t> bytes() const { return bytes_; }

 private:
  std::vector<int> nodes_;
  std::uint64_t most_ahead_bytes_;
  std::vector<std::uint64_t> bytes_;
  std::uint32_t last_;  ///< the owner of the bucket before; at first the last member, so that member 0 begins
};

}  // namespace ckptd::plan
