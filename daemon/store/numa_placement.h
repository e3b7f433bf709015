// Which node a segment lies on. Placement is a wish: a full node spills to another, and a machine or a sandbox
// without NUMA calls goes on without.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

namespace ckptd::store {

/// The nodes whose memory this process may use; empty when there is only one, or none is known. `system_root` replaces
/// "/" for what is read from /proc and /sys.
std::vector<int> usable_numa_nodes(const std::filesystem::path& system_root);

/// Where segments shall lie: the usable nodes that devices are on, each as often as it has devices; all usable ones, once
/// each, where no device tells (-1).
std::vector<int> nodes_for_segments(std::span<const int> usable, std::span<const int> of_devices);

/// The node of which the smallest share is taken (`taken` has one entry a segment): a node that comes twice in `nodes` is
/// given two segments for one of another. The lowest on a tie; -1 without nodes.
int least_used_node(std::span<const int> nodes, std::span<const int> taken);

/// Asks for untouched `memory` to come from `node`.
void prefer_node(std::span<std::byte> memory, int node);

/// Where touched memory really lies; -1 when the kernel does not say.
int node_of(const std::byte* touched);

}  // namespace ckptd::store
