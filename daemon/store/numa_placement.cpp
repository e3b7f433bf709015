#include "daemon/store/numa_placement.h"

#include <numaif.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <fstream>
#include <set>
#include <string>
#include <string_view>

namespace ckptd::store {
namespace {

constexpr int kMostNodes = 4096;  ///< a list that says more is none

/// "0-1,4" as the kernel writes sets of nodes. Empty if it is anything else.
std::set<int> parse_nodes(std::string_view list) {
  std::set<int> nodes;
  const auto number = [&](int& value) {
    const auto [end, error] = std::from_chars(list.data(), list.data() + list.size(), value);
    if (error != std::errc{} || value < 0 || value >= kMostNodes) return false;
    list.remove_prefix(static_cast<std::size_t>(end - list.data()));
    return true;
  };
  while (!list.empty()) {
    int first = 0;
    if (!number(first)) return {};
    int last = first;
    if (list.starts_with('-')) {
      list.remove_prefix(1);
      if (!number(last)) return {};
    }
    for (int node = first; node <= last; ++node) nodes.insert(node);
    if (list.starts_with(',')) list.remove_prefix(1);
    else if (!list.empty()) return {};
  }
  return nodes;
}

std::set<int> nodes_with_memory(const std::filesystem::path& system_root) {
  std::ifstream file(system_root / "sys/devices/system/node/has_memory");
  std::string list;
  file >> list;
  return parse_nodes(list);
}

/// What a cpuset leaves to this process.
std::set<int> allowed_nodes(const std::filesystem::path& system_root) {
  constexpr std::string_view kName = "Mems_allowed_list:";
  std::ifstream file(system_root / "proc/self/status");
  for (std::string word; file >> word;) {
    if (word != kName) continue;
    file >> word;
    return parse_nodes(word);
  }
  return {};
}

}  // namespace

std::vector<int> usable_numa_nodes(const std::filesystem::path& system_root) {
  std::vector<int> nodes;
  std::ranges::set_intersection(nodes_with_memory(system_root), allowed_nodes(system_root), std::back_inserter(nodes));
  if (nodes.size() < 2) nodes.clear();
  return nodes;
}

std::vector<int> nodes_for_segments(std::span<const int> usable, std::span<const int> of_devices) {
  std::vector<int> nodes;
  std::ranges::copy_if(of_devices, std::back_inserter(nodes),
                       [&](int node) { return std::ranges::find(usable, node) != usable.end(); });
  std::ranges::sort(nodes);
  if (nodes.empty()) nodes.assign(usable.begin(), usable.end());
  return nodes;
}

int least_used_node(std::span<const int> nodes, std::span<const int> taken) {
  int best = -1;
  std::ptrdiff_t best_taken = 0, best_share = 1;
  for (const int node : std::set<int>(nodes.begin(), nodes.end())) {
    const auto has = std::ranges::count(taken, node), share = std::ranges::count(nodes, node);
    if (best >= 0 && has * best_share >= best_taken * share) continue;
    best = node, best_taken = has, best_share = share;
  }
  return best;
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
