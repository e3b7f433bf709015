// Pure: manifest + layout + arena + packing -> ordered buckets, copy runs, owners, slots, fan-out. No clock, no
// threads, no memory but the result: the same input gives the same plan on every member, and digest() proves it.
//
//   resting space   ...[t0][t1][t2]......[t3]...        tensors as they lie in their files
//   bucket               one copy run     one copy run  neighbours whose offsets suit their dtypes travel as one run
//   arena           [bucket 0    ][bucket 1    ][...]   slots: ranges given out like a ring
//
// Between two runs of a bucket there may be a gap, so that each starts aligned, unless the protocol forbids gaps.
//
// The first buckets are small, so that a rank has something to load at once, and each next one may be twice as large:
// the plan starts at the first tensor that fits the first bucket and takes those before it last.
//
// A bucket may be written into its slot once the first `after` buckets of the plan have been reloaded by the rank: the
// slot overlaps none of the later ones.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "daemon/weights/layout.h"
#include "daemon/weights/manifest.h"

namespace ckptd::plan {

/// broadcast: a bucket is uploaded by its owner and spread; lockstep. independent: each lane uploads everything itself.
enum class FanOut { independent, broadcast };
std::string_view name_of(FanOut fan_out);

/// How a session wants tensors to stand in a bucket.
struct Packing {
  std::uint64_t bucket_bytes = 0;    ///< a bucket holds at most this, unless one tensor alone is larger
  std::uint64_t run_alignment = 256; ///< where each copy run starts
  std::uint64_t first_bucket_bytes = 0;  ///< what the first bucket holds at most; 0: as the others
  /// Each tensor starts where the one before it in its bucket ends, also where their bytes come from different places. A
  /// bucket ends early before a tensor whose dtype could not stand there.
  bool gapless = false;
};

/// Uploaded in two milliseconds or so, and many times what a round trip to a rank costs.
inline constexpr std::uint64_t kFirstBucketBytes = 16 * kMiB;

struct Placement {
  std::uint32_t tensor = 0;   ///< index into the manifest
  std::uint64_t offset = 0;   ///< from the start of the bucket; a multiple of the dtype's alignment
};

struct CopyRun {
  std::uint64_t resting_offset = 0;
  std::uint64_t bucket_offset = 0;
  std::uint64_t bytes = 0;  ///< that lie together in one segment
};

struct Bucket {
  std::vector<Placement> tensors;
  std::vector<CopyRun> runs;
  std::uint64_t bytes = 0;        ///< extent in the arena, paddings included
  std::uint64_t slot_offset = 0;  ///< in the arena, a multiple of run_alignment
  std::uint32_t owner = 0;        ///< member that uploads it; with independent everybody does
  std::uint32_t after = 0;        ///< buckets that must have been reloaded before the slot is written
};

struct Request {
  std::uint32_t members = 1;
  std::uint64_t arena_bytes = 0;
  Packing packing;
  FanOut fan_out = FanOut::independent;
  // Where members and the layout's segments are: NUMA nodes, -1 or left out where that is not known. An owner is a member
  // on its bucket's node where that keeps the members' shares even (owners.h); where nothing is known, they take turns.
  std::vector<int> member_nodes = {};
  std::vector<int> segment_nodes = {};
};

struct Plan {
  std::vector<Bucket> buckets;
  FanOut fan_out = FanOut::independent;
  std::uint64_t arena_bytes = 0;
  std::uint64_t tensor_bytes = 0;  ///< without paddings
  std::uint64_t copy_runs = 0;

  /// What members compare before the first byte moves.
  weights::Digest digest() const;
};

/// no_space, with the tensor's name, its bytes and the arena's, when a tensor does not fit the arena.
Result<Plan> make_plan(const weights::Manifest& manifest, const weights::Layout& layout, const Request& request);

/// The smallest arena that make_plan accepts for this manifest.
std::uint64_t smallest_arena_bytes(const weights::Manifest& manifest, const Packing& packing);

/// Two buckets of the asked size, so that one is reloaded while the next is uploaded; at least the largest tensor, and
/// no more than the whole model needs.
std::uint64_t wanted_arena_bytes(const weights::Manifest& manifest, const Packing& packing);

/// What is used when nobody asked for a bucket size: a sixteenth of the model in powers of two, so that uploads and
/// reloads overlap, between 16 MiB (fewer round trips than tensors) and 512 MiB (memory taken from the engine).
std::uint64_t default_bucket_bytes(std::uint64_t tensor_bytes);

/// broadcast pays where several members can copy from each other faster than from host memory; on one member, or on
/// host devices (whose peers' memory is host memory), every lane uploads for itself.
FanOut choose_fan_out(std::uint32_t members, bool peer_copies_are_faster);

}  // namespace ckptd::plan
