// Which node a segment lies on. Placement is a wish: a full node spills to another, and a machine or a sandbox
// without NUMA calls goes on without.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace ckptd::store {

/// The nodes whose memory this process may use; empty when there is only one, or none is known.
std::vector<int> usable_numa_nodes();

/// The node that the fewest of `taken` (one entry a segment) lie on, the lowest on a tie; -1 without nodes.
int least_used_node(std::span<const int> nodes, std::span<const int> taken);

/// Asks for untouched `memory` to come from `node`.
void prefer_node(std::span<std::byte> memory, int node);

/// Where touched memory really lies; -1 when the kernel does not say.
int node_of(const std::byte* touched);

}  // namespace ckptd::store
