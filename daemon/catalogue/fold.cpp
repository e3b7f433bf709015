#include "daemon/catalogue/fold.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <unordered_map>

#include "common/units.h"

namespace ckptd::catalogue {
namespace {

using weights::Digest;
using weights::Layout;

// Small tensors that lie apart would cost more copy runs in every update than their memory is worth.
constexpr std::uint64_t kSmallBytes = 64 * kKiB;
// Moved bytes keep their address modulo this, for the sake of copies to a device.
constexpr std::uint64_t kKeptAlignment = 256;
constexpr std::uint64_t kCopyBytes = 16 * kMiB;

struct ByDigest {
  std::size_t operator()(const Digest& digest) const {
    std::size_t hash;
    std::memcpy(&hash, digest.bytes.data(), sizeof hash);
    return hash;
  }
};
using TensorsByDigest = std::unordered_map<Digest, std::uint32_t, ByDigest>;

/// Bytes of the arrived version that lie in a segment of another one.
struct Candidate {
  std::uint64_t rest_begin = 0, bytes = 0;
  const Held* held = nullptr;
  std::uint64_t offset = 0;
  bool of_a_large_tensor = false;  ///< maybe only the end of it, behind a segment's border
};

TensorsByDigest index_of(const Contents& contents) {
  TensorsByDigest tensors;
  for (std::uint32_t i = 0; i < contents.tensor_digests.size(); ++i)
    if (contents.manifest.tensors[i].extent.bytes > 0) tensors.emplace(contents.tensor_digests[i], i);
  return tensors;
}

const weights::Extent* same_tensor(const Contents& arrived, std::size_t tensor, const Contents& other,
                                   const TensorsByDigest& tensors) {
  const auto found = tensors.find(arrived.tensor_digests[tensor]);
  if (found == tensors.end()) return nullptr;
  const auto& extent = other.manifest.tensors[found->second].extent;
  return extent.bytes == arrived.manifest.tensors[tensor].extent.bytes ? &extent : nullptr;
}

/// For each tensor of the arrived version where else its bytes are; the version that has most of them goes first, so that
/// neighbours are found in one place.
struct Elsewhere {
  const Contents* contents = nullptr;
  const weights::Extent* extent = nullptr;
};
std::vector<Elsewhere> find_elsewhere(const Contents& arrived, std::span<const Contents* const> resident) {
  const auto& tensors = arrived.manifest.tensors;
  struct Other {
    const Contents* contents;
    TensorsByDigest tensors;
    std::uint64_t same_bytes = 0;
  };
  std::vector<Other> others;
  for (const auto* contents : resident) {
    auto& other = others.emplace_back(contents, index_of(*contents));
    for (std::size_t i = 0; i < tensors.size(); ++i)
      if (same_tensor(arrived, i, *contents, other.tensors)) other.same_bytes += tensors[i].extent.bytes;
  }
  std::ranges::stable_sort(others, std::greater<>(), &Other::same_bytes);

  std::vector<Elsewhere> elsewhere(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    for (const auto& other : others)
      if (const auto* extent = same_tensor(arrived, i, *other.contents, other.tensors)) {
        elsewhere[i] = {other.contents, extent};
        break;
      }
  return elsewhere;
}

std::vector<Candidate> find_candidates(const Contents& arrived, std::span<const Contents* const> resident) {
  const auto elsewhere = find_elsewhere(arrived, resident);
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < elsewhere.size(); ++i) {
    const auto& there = elsewhere[i];
    if (there.contents == nullptr) continue;
    const auto bytes = there.extent->bytes;
    auto here = arrived.layout.resting_offset(arrived.manifest.tensors[i].extent);
    for (std::uint64_t done = 0; done < bytes;) {
      const auto place = there.contents->layout.place(there.contents->layout.resting_offset(*there.extent) + done);
      if (place.bytes == 0) break;
      const auto step = std::min(place.bytes, bytes - done);
      const auto* held = &there.contents->memory[place.segment];
      auto* last = candidates.empty() ? nullptr : &candidates.back();
      if (last != nullptr && last->rest_begin + last->bytes == here && last->held->segment == held->segment &&
          last->offset + last->bytes == place.offset) {
        last->bytes += step;
        last->of_a_large_tensor |= bytes >= kSmallBytes;
      } else {
        candidates.push_back({here, step, held, place.offset, bytes >= kSmallBytes});
      }
      here += step, done += step;
    }
  }
  std::erase_if(candidates, [](const Candidate& each) { return !each.of_a_large_tensor && each.bytes < kSmallBytes; });
  return candidates;
}

/// Tensors with equal bytes may refer to the same place; it counts once.
std::uint64_t distinct_bytes(std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges) {
  std::ranges::sort(ranges);
  std::uint64_t bytes = 0, end = 0;
  for (const auto& [begin, to] : ranges) {
    bytes += to - std::min(to, std::max(begin, end));
    end = std::max(end, to);
  }
  return bytes;
}

void drop_little_used_segments(std::vector<Candidate>& candidates) {
  std::map<const store::Segment*, std::vector<std::pair<std::uint64_t, std::uint64_t>>> used;
  for (const auto& each : candidates) used[each.held->segment.get()].emplace_back(each.offset, each.offset + each.bytes);
  std::map<const store::Segment*, std::uint64_t> used_bytes;
  for (auto& [segment, ranges] : used) used_bytes[segment] = distinct_bytes(std::move(ranges));
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return used_bytes[candidate.held->segment.get()] < (candidate.held->filled_bytes + 1) / 2;
  });
}

/// Adds what lies in [begin, end) of the resting space and is not shared to the own line.
void keep_own(Fold& fold, std::uint64_t begin, std::uint64_t end, std::uint64_t segment_bytes) {
  if (begin == end) return;
  const auto* last = fold.moves.empty() ? nullptr : &fold.moves.back();
  auto to = fold.own_bytes;
  if (last == nullptr || last->from + last->bytes != begin)
    to += (begin % kKeptAlignment + kKeptAlignment - to % kKeptAlignment) % kKeptAlignment;
  fold.moves.push_back({begin, to, end - begin});
  fold.own_bytes = to + (end - begin);
  for (auto at = begin; at < end;) {
    const auto line = to + (at - begin);
    const auto step = std::min(end - at, segment_bytes - line % segment_bytes);
    fold.stretches.push_back({at, step, static_cast<std::uint32_t>(line / segment_bytes), line % segment_bytes});
    at += step;
  }
}

/// Walks the tensors and the shared stretches side by side, both in the order of the resting space.
void split(Fold& fold, const Contents& arrived, const std::vector<Candidate>& shared) {
  auto next = shared.begin();
  for (const auto& tensor : arrived.manifest.tensors) {
    auto at = arrived.layout.resting_offset(tensor.extent);
    const auto end = at + tensor.extent.bytes;
    while (at < end) {
      while (next != shared.end() && next->rest_begin + next->bytes <= at) ++next;
      const auto gap_end = next == shared.end() ? end : std::clamp(next->rest_begin, at, end);
      keep_own(fold, at, gap_end, arrived.layout.segment_bytes());
      at = gap_end;
      if (at < end) at = std::min(end, next->rest_begin + next->bytes);
    }
  }
}

}  // namespace

std::optional<Fold> plan_fold(const Contents& arrived, std::span<const Contents* const> resident) {
  auto candidates = find_candidates(arrived, resident);
  drop_little_used_segments(candidates);
  if (candidates.empty()) return std::nullopt;

  Fold fold;
  split(fold, arrived, candidates);
  const auto segment_bytes = arrived.layout.segment_bytes();
  const auto own_segments = (fold.own_bytes + segment_bytes - 1) / segment_bytes;
  if (own_segments >= arrived.memory.size()) return std::nullopt;
  fold.freed_segments = arrived.memory.size() - own_segments;

  std::map<const store::Segment*, std::uint32_t> numbers;
  for (const auto& each : candidates) {
    const auto number = static_cast<std::uint32_t>(own_segments + fold.shared.size());
    const auto [at, is_new] = numbers.emplace(each.held->segment.get(), number);
    if (is_new) fold.shared.push_back(*each.held);
    fold.stretches.push_back({each.rest_begin, each.bytes, at->second, each.offset});
    fold.shared_bytes += each.bytes;
  }
  std::ranges::sort(fold.stretches, {}, &Layout::Stretch::rest_begin);
  return fold;
}

Result<> carry_out(Fold fold, Contents& arrived, const std::stop_token& stop) {
  const auto segment_bytes = arrived.layout.segment_bytes();
  const auto at = [&](std::uint64_t line) {
    return arrived.memory[line / segment_bytes].segment->memory.data() + line % segment_bytes;
  };
  for (const auto& move : fold.moves) {
    for (std::uint64_t done = 0; move.from != move.to && done < move.bytes;) {
      if (stop.stop_requested()) return fail(ErrorKind::cancelled, "the load was cancelled while its bytes moved together");
      const auto from = move.from + done, to = move.to + done;
      const auto step = std::min({kCopyBytes, move.bytes - done, segment_bytes - from % segment_bytes,
                                  segment_bytes - to % segment_bytes});
      std::memmove(at(to), at(from), step);
      done += step;
    }
  }
  arrived.layout = arrived.layout.folded(std::move(fold.stretches));
  arrived.memory.resize(arrived.memory.size() - fold.freed_segments);
  auto left = fold.own_bytes;
  for (auto& held : arrived.memory) {
    held.filled_bytes = std::min(left, segment_bytes);
    left -= held.filled_bytes;
  }
  for (auto& held : fold.shared) arrived.memory.push_back(std::move(held));
  return {};
}

}  // namespace ckptd::catalogue
