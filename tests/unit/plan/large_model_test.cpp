// What holds for small plans holds at the size of the largest open model; times are bench/plan.cpp's business.
#include <algorithm>
#include <catch2/catch.hpp>

#include "bench/tensor_list.h"
#include "daemon/plan/plan.h"

using namespace ckptd;
using namespace ckptd::plan;

namespace {

/// Each tensor stands in one run, from where it rests; runs and slots keep within their bounds and do not overlap.
/// Counts failures: two million assertions would take longer than the plan.
struct Faults {
  std::size_t unplaced_tensors = 0, misplaced_tensors = 0, overlapping_runs = 0, runs_across_segments = 0,
              buckets_out_of_bounds = 0, slots_in_use = 0;
};

void check_tensors(const Bucket& bucket, const weights::Manifest& manifest, const weights::Layout& layout,
                   std::vector<int>& seen, Faults& faults) {
  std::size_t at = 0;  // tensors and runs both ascend
  for (const auto& placement : bucket.tensors) {
    ++seen[placement.tensor];
    const auto& tensor = manifest.tensors[placement.tensor];
    bool well = placement.offset % weights::alignment_of(tensor.dtype) == 0;
    // A tensor may go on in the next run, behind a segment's border.
    auto resting = layout.resting_offset(tensor.extent), offset = placement.offset, left = tensor.extent.bytes;
    while (well && left > 0) {
      while (at < bucket.runs.size() && bucket.runs[at].bucket_offset + bucket.runs[at].bytes <= offset) ++at;
      well = at < bucket.runs.size() && bucket.runs[at].bucket_offset <= offset &&
             bucket.runs[at].resting_offset + (offset - bucket.runs[at].bucket_offset) == resting;
      if (!well) break;
      const auto step = std::min(left, bucket.runs[at].bucket_offset + bucket.runs[at].bytes - offset);
      resting += step, offset += step, left -= step;
    }
    if (!well) ++faults.misplaced_tensors;
  }
}

void check_runs(const Bucket& bucket, std::uint64_t segment_bytes, Faults& faults) {
  std::uint64_t end = 0;
  for (const auto& run : bucket.runs) {
    if (run.bucket_offset < end) ++faults.overlapping_runs;
    end = run.bucket_offset + run.bytes;
    if (run.bytes == 0 || run.resting_offset / segment_bytes != (run.resting_offset + run.bytes - 1) / segment_bytes)
      ++faults.runs_across_segments;
  }
  if (end > bucket.bytes) ++faults.buckets_out_of_bounds;
}

Faults faults_of(const Plan& plan, const weights::Manifest& manifest, const weights::Layout& layout,
                 const Request& request) {
  Faults faults;
  std::vector<int> seen(manifest.tensors.size());
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    const auto& bucket = plan.buckets[b];
    check_tensors(bucket, manifest, layout, seen, faults);
    check_runs(bucket, layout.segment_bytes(), faults);
    if (bucket.slot_offset + bucket.bytes > request.arena_bytes ||
        (bucket.bytes > request.packing.bucket_bytes && bucket.tensors.size() > 1))
      ++faults.buckets_out_of_bounds;
    for (std::size_t other = bucket.after; other < b; ++other) {
      const auto& earlier = plan.buckets[other];
      if (bucket.slot_offset < earlier.slot_offset + earlier.bytes &&
          earlier.slot_offset < bucket.slot_offset + bucket.bytes)
        ++faults.slots_in_use;
    }
  }
  faults.unplaced_tensors = static_cast<std::size_t>(std::ranges::count_if(seen, [](int n) { return n != 1; }));
  return faults;
}

}  // namespace

TEST_CASE("Kimi-K2: every tensor once, nothing overlaps, and copies follow buckets and not tensors") {
  const auto manifest = bench::read_tensor_list(KIMI_K2_LIST);
  REQUIRE(manifest);
  REQUIRE(manifest->tensors.size() == 139'583);
  const weights::Layout layout(*manifest, kGiB);
  const Packing packing{.bucket_bytes = default_bucket_bytes(manifest->tensor_bytes()),
                        .first_bucket_bytes = kFirstBucketBytes};
  const Request request{.arena_bytes = wanted_arena_bytes(*manifest, packing), .packing = packing};
  const auto plan = make_plan(*manifest, layout, request);
  REQUIRE(plan);
  const auto faults = faults_of(*plan, *manifest, layout, request);
  CHECK(faults.unplaced_tensors == 0);
  CHECK(faults.misplaced_tensors == 0);
  CHECK(faults.overlapping_runs == 0);
  CHECK(faults.runs_across_segments == 0);
  CHECK(faults.buckets_out_of_bounds == 0);
  CHECK(faults.slots_in_use == 0);
  CHECK(plan->tensor_bytes == manifest->tensor_bytes());
  CHECK(plan->tensor_bytes == 1'029'173'249'888);
  CHECK(plan->buckets.front().bytes <= kFirstBucketBytes);

  // A run ends with its bucket, its segment or its file, and nowhere else.
  CHECK(plan->copy_runs <= plan->buckets.size() + layout.segment_count() + manifest->files.size());
  CHECK(plan->copy_runs * 40 < manifest->tensors.size());
  // Buckets are full: few more than the bytes ask for.
  CHECK(plan->buckets.size() * 100 < plan->tensor_bytes / packing.bucket_bytes * 105);
}
