#include "daemon/store/numa_placement.h"

#include <numa.h>
#include <numaif.h>

#include <algorithm>
#include <array>
#include <climits>

namespace ckptd::store {

std::vector<int> usable_numa_nodes() {
  if (numa_available() < 0) return {};
  std::vector<int> nodes;
  if (auto* allowed = numa_get_mems_allowed()) {
    for (int node = 0; node <= numa_max_node(); ++node)
      if (numa_bitmask_isbitset(allowed, static_cast<unsigned>(node))) nodes.push_back(node);
    numa_bitmask_free(allowed);
  }
  if (nodes.size() < 2) nodes.clear();
  return nodes;
}

int least_used_node(std::span<const int> nodes, std::span<const int> taken) {
  if (nodes.empty()) return -1;
  return *std::ranges::min_element(nodes, {}, [&](int node) { return std::ranges::count(taken, node); });
}

void prefer_node(std::span<std::byte> memory, int node) {
  constexpr unsigned kBitsPerWord = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, 64> mask{};
  auto bit = static_cast<unsigned>(node);
  if (bit / kBitsPerWord >= mask.size()) return;
  mask[bit / kBitsPerWord] = 1UL << (bit % kBitsPerWord);
  // Preferred and not bound: binding would turn a full node into a SIGBUS or an out-of-memory kill at first touch.
  // libnuma's own wrappers print to stderr when a sandbox forbids the call, so this one is called directly.
  mbind(memory.data(), memory.size(), MPOL_PREFERRED, mask.data(), mask.size() * kBitsPerWord, 0);
}

int node_of(const std::byte* touched) {
  int node = -1;
  auto* address = const_cast<std::byte*>(touched);
  return get_mempolicy(&node, nullptr, 0, address, MPOL_F_NODE | MPOL_F_ADDR) == 0 ? node : -1;
}

}  // namespace ckptd::store
