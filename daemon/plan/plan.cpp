#include "daemon/plan/plan.h"

#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "daemon/plan/owners.h"
#include "daemon/plan/slots.h"

namespace ckptd::plan {
namespace {

/// One bucket being filled.
class Filling {
 public:
  Filling(const Packing& packing, const weights::Layout& layout) : packing_(packing), layout_(layout) {}

  bool empty() const { return bucket_.tensors.empty(); }

  /// Where the tensor would stand: right behind its neighbour if it is one and its dtype allows, else a fresh run.
  std::uint64_t offset_for(const weights::Tensor& tensor, std::uint64_t resting_offset) const {
    if (packing_.gapless) return bucket_.bytes;
    const bool neighbour = !empty() && resting_offset == resting_end_;
    if (neighbour && bucket_.bytes % weights::alignment_of(tensor.dtype) == 0) return bucket_.bytes;
    return round_up(bucket_.bytes, packing_.run_alignment);
  }

  bool may_stand(const weights::Tensor& tensor, std::uint64_t resting_offset) const {
    return offset_for(tensor, resting_offset) % weights::alignment_of(tensor.dtype) == 0;
  }

  void add(std::uint32_t index, const weights::Tensor& tensor, std::uint64_t resting_offset) {
    const auto offset = offset_for(tensor, resting_offset);
    bucket_.tensors.push_back({index, offset});
    add_runs(resting_offset, offset, tensor.extent.bytes);
    bucket_.bytes = offset + tensor.extent.bytes;
    resting_end_ = resting_offset + tensor.extent.bytes;
  }

  Bucket take() { return std::exchange(bucket_, {}); }

 private:
  /// Extends the last run, or starts one, cutting where bytes do not lie together. What lies nowhere is left to whoever
  /// copies it to find out.
  void add_runs(std::uint64_t resting_offset, std::uint64_t bucket_offset, std::uint64_t bytes) {
    while (bytes > 0) {
      const auto together = layout_.place(resting_offset).bytes;
      const auto step = together == 0 ? bytes : std::min(bytes, together);
      auto* last = bucket_.runs.empty() ? nullptr : &bucket_.runs.back();
      const bool extends = last && resting_offset < last_together_end_ &&
                           last->resting_offset + last->bytes == resting_offset &&
                           last->bucket_offset + last->bytes == bucket_offset;
      if (extends)
        last->bytes += step;
      else
        bucket_.runs.push_back({resting_offset, bucket_offset, step});
      last_together_end_ = resting_offset + together;
      resting_offset += step, bucket_offset += step, bytes -= step;
    }
  }

  Packing packing_;
  const weights::Layout& layout_;
  Bucket bucket_;
  std::uint64_t resting_end_ = 0;
  std::uint64_t last_together_end_ = 0;  ///< where the bytes that lie together with the last run's end
};

template <class T>
void append(std::vector<std::byte>& bytes, T value) {
  for (std::size_t i = 0; i < sizeof value; ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
}

Result<> check_fits(const weights::Tensor& tensor, const weights::Manifest& manifest, const Request& request) {
  if (tensor.extent.bytes <= request.arena_bytes) return {};
  return fail(ErrorKind::no_space,
              "tensor {} is {} and the arena on the device holds {}: a tensor never spans buckets, so give the arena at "
              "least {} ([push] arena), or free memory on the device",
              tensor.name, show_bytes(tensor.extent.bytes), show_bytes(request.arena_bytes),
              show_bytes(smallest_arena_bytes(manifest, request.packing)));
}

/// What a bucket holds at most, unless one tensor alone is larger: doubles from the first bucket to the full size.
std::uint64_t bucket_limit(std::size_t number, const Request& request) {
  const auto full = std::min(request.packing.bucket_bytes, request.arena_bytes);
  const auto first = request.packing.first_bucket_bytes;
  if (first == 0 || number >= static_cast<std::size_t>(std::countl_zero(first))) return full;
  return std::min(full, first << number);
}

/// Where to start so that the first bucket is small.
std::size_t first_tensor(const weights::Manifest& manifest, const Packing& packing) {
  if (packing.first_bucket_bytes == 0) return 0;
  const auto at = std::ranges::find_if(
      manifest.tensors, [&](const auto& tensor) { return tensor.extent.bytes <= packing.first_bucket_bytes; });
  return at == manifest.tensors.end() ? 0 : static_cast<std::size_t>(at - manifest.tensors.begin());
}

void fill_buckets(Plan& plan, const weights::Manifest& manifest, const weights::Layout& layout,
                  const Request& request) {
  Filling filling(request.packing, layout);
  const auto close_bucket = [&] {
    plan.buckets.push_back(filling.take());
    plan.copy_runs += plan.buckets.back().runs.size();
  };
  const auto count = manifest.tensors.size(), start = first_tensor(manifest, request.packing);
  for (std::size_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint32_t>((start + i) % count);
    const auto& tensor = manifest.tensors[index];
    const auto resting = layout.resting_offset(tensor.extent);
    const auto limit = bucket_limit(plan.buckets.size(), request);
    const bool fits = filling.offset_for(tensor, resting) + tensor.extent.bytes <= limit;
    if (!filling.empty() && !(fits && filling.may_stand(tensor, resting))) close_bucket();
    filling.add(index, tensor, resting);
    plan.tensor_bytes += tensor.extent.bytes;
  }
  if (!filling.empty()) close_bucket();
}

void give_slots(Plan& plan, const Request& request) {
  const auto alignment = request.packing.run_alignment;
  // Rounded so that the next slot starts aligned, but never past the arena's end.
  const auto slot_bytes = [&](std::size_t number) {
    if (number >= plan.buckets.size()) return std::uint64_t{0};
    return std::min(round_up(plan.buckets[number].bytes, alignment), request.arena_bytes);
  };
  Slots slots(request.arena_bytes, alignment);
  for (std::size_t number = 0; number < plan.buckets.size(); ++number) {
    auto& bucket = plan.buckets[number];
    const auto slot = slots.take(static_cast<std::uint32_t>(number), slot_bytes(number), slot_bytes(number + 1));
    bucket.slot_offset = slot.offset;
    bucket.after = slot.after;
  }
}

/// Where most of the bucket's bytes lie.
int node_of(const Bucket& bucket, const weights::Layout& layout, const std::vector<int>& segment_nodes) {
  std::map<int, std::uint64_t> bytes;
  for (const auto& run : bucket.runs) {
    const auto segment = layout.place(run.resting_offset).segment;
    bytes[segment < segment_nodes.size() ? segment_nodes[segment] : Owners::kAnywhere] += run.bytes;
  }
  if (bytes.empty()) return Owners::kAnywhere;
  return std::ranges::max_element(bytes, {}, [](const auto& each) { return each.second; })->first;
}

void give_owners(Plan& plan, const weights::Layout& layout, const Request& request) {
  const auto known = [](const std::vector<int>& nodes) {
    return std::ranges::any_of(nodes, [](int node) { return node >= 0; });
  };
  if (!known(request.member_nodes) || !known(request.segment_nodes)) {
    for (std::size_t number = 0; number < plan.buckets.size(); ++number)
      plan.buckets[number].owner = static_cast<std::uint32_t>(number) % request.members;
    return;
  }
  auto nodes = request.member_nodes;
  nodes.resize(request.members, Owners::kAnywhere);
  std::uint64_t largest = 0, all = 0;
  for (const auto& bucket : plan.buckets) {
    largest = std::max(largest, bucket.bytes);
    all += bucket.bytes;
  }
  // A segment of many buckets gives its node's members a lead, which those of the next segment catch up with.
  constexpr std::uint64_t kPartOfShare = 8;
  Owners owners(std::move(nodes), std::max(largest, all / request.members / kPartOfShare));
  for (auto& bucket : plan.buckets) bucket.owner = owners.next(node_of(bucket, layout, request.segment_nodes), bucket.bytes);
}

}  // namespace

std::string_view name_of(FanOut fan_out) { return fan_out == FanOut::broadcast ? "broadcast" : "independent"; }

weights::Digest Plan::digest() const {
  std::vector<std::byte> bytes;
  append(bytes, static_cast<std::uint64_t>(fan_out));
  append(bytes, arena_bytes);
  for (const auto& bucket : buckets) {
    append(bytes, bucket.slot_offset);
    append(bytes, bucket.bytes);
    append(bytes, bucket.owner);
    append(bytes, bucket.after);
    append(bytes, static_cast<std::uint64_t>(bucket.tensors.size()));
    for (const auto& placement : bucket.tensors) append(bytes, placement.tensor), append(bytes, placement.offset);
    append(bytes, static_cast<std::uint64_t>(bucket.runs.size()));
    for (const auto& run : bucket.runs)
      append(bytes, run.resting_offset), append(bytes, run.bucket_offset), append(bytes, run.bytes);
  }
  return weights::digest_of(bytes);
}

Result<Plan> make_plan(const weights::Manifest& manifest, const weights::Layout& layout, const Request& request) {
  for (const auto& tensor : manifest.tensors) CKPTD_TRY(check_fits(tensor, manifest, request));
  Plan plan{.buckets = {}, .fan_out = request.fan_out, .arena_bytes = request.arena_bytes};
  fill_buckets(plan, manifest, layout, request);
  give_slots(plan, request);
  give_owners(plan, layout, request);
  return plan;
}

std::uint64_t smallest_arena_bytes(const weights::Manifest& manifest, const Packing& packing) {
  return round_up(std::max<std::uint64_t>(manifest.largest_tensor_bytes(), 1), packing.run_alignment);
}

std::uint64_t wanted_arena_bytes(const weights::Manifest& manifest, const Packing& packing) {
  std::uint64_t whole = packing.run_alignment;
  for (const auto& tensor : manifest.tensors) whole += round_up(tensor.extent.bytes, packing.run_alignment);
  const auto bucket = round_up(std::max(packing.bucket_bytes, manifest.largest_tensor_bytes()), packing.run_alignment);
  return std::min(whole, 2 * bucket);
}

std::uint64_t default_bucket_bytes(std::uint64_t tensor_bytes) {
  return std::clamp(std::bit_ceil(tensor_bytes / 16 + 1), 16 * kMiB, 512 * kMiB);
}

FanOut choose_fan_out(std::uint32_t members, bool peer_copies_are_faster) {
  return members > 1 && peer_copies_are_faster ? FanOut::broadcast : FanOut::independent;
}

}  // namespace ckptd::plan
