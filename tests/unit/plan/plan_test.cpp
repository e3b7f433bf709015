#include "daemon/plan/plan.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <random>

#include "daemon/plan/slots.h"

using namespace ckptd;
using namespace ckptd::plan;
using weights::Dtype;

namespace {

/// A manifest of one file whose tensors lie back to back behind `data_begin`.
weights::Manifest back_to_back(std::uint64_t data_begin, const std::vector<std::pair<Dtype, std::uint64_t>>& tensors) {
  weights::Manifest manifest;
  std::uint64_t at = data_begin;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto [dtype, count] = tensors[i];
    const auto bytes = count * weights::bits_of(dtype) / 8;
    manifest.tensors.push_back({fmt::format("t{}", i), dtype, {count}, {0, at, bytes}});
    at += bytes;
  }
  manifest.files.push_back({"model.safetensors", at, data_begin, "stamp"});
  return manifest;
}

Plan planned(const weights::Manifest& manifest, Request request, std::uint64_t segment_bytes = kMiB) {
  weights::Layout layout(manifest, segment_bytes);
  auto plan = make_plan(manifest, layout, request);
  REQUIRE(plan);
  return *plan;
}

/// What every plan must keep, whatever the input.
void check_invariants(const weights::Manifest& manifest, const Plan& plan, const Request& request,
                      std::uint64_t segment_bytes) {
  weights::Layout layout(manifest, segment_bytes);
  std::vector<int> seen(manifest.tensors.size());
  for (std::uint32_t b = 0; b < plan.buckets.size(); ++b) {
    const auto& bucket = plan.buckets[b];
    REQUIRE(bucket.slot_offset + bucket.bytes <= request.arena_bytes);
    REQUIRE(bucket.slot_offset % request.packing.run_alignment == 0);
    REQUIRE(bucket.owner < request.members);
    REQUIRE(bucket.after <= b);
    REQUIRE((bucket.bytes <= request.packing.bucket_bytes || bucket.tensors.size() == 1));
    if (b > 0 && round_up(bucket.bytes, request.packing.run_alignment) +
                         round_up(plan.buckets[b - 1].bytes, request.packing.run_alignment) <=
                     round_down(request.arena_bytes, request.packing.run_alignment))
      REQUIRE(bucket.after < b);
    // The slot overlaps no bucket from `after` on.
    for (std::uint32_t other = bucket.after; other < b; ++other) {
      const auto& earlier = plan.buckets[other];
      REQUIRE((bucket.bytes == 0 || earlier.bytes == 0 ||
               bucket.slot_offset + bucket.bytes <= earlier.slot_offset ||
               earlier.slot_offset + earlier.bytes <= bucket.slot_offset));
    }
    // Each byte of each tensor arrives once, from where it rests.
    std::vector<std::int64_t> from(bucket.bytes, -1);
    for (const auto& run : bucket.runs) {
      REQUIRE(run.bytes > 0);
      REQUIRE(run.resting_offset / segment_bytes == (run.resting_offset + run.bytes - 1) / segment_bytes);
      for (std::uint64_t i = 0; i < run.bytes; ++i) {
        REQUIRE(from.at(run.bucket_offset + i) == -1);
        from[run.bucket_offset + i] = static_cast<std::int64_t>(run.resting_offset + i);
      }
    }
    for (const auto& placement : bucket.tensors) {
      const auto& tensor = manifest.tensors[placement.tensor];
      ++seen[placement.tensor];
      REQUIRE(placement.offset % weights::alignment_of(tensor.dtype) == 0);
      for (std::uint64_t i = 0; i < tensor.extent.bytes; ++i)
        REQUIRE(from.at(placement.offset + i) ==
                static_cast<std::int64_t>(layout.resting_offset(tensor.extent) + i));
    }
  }
  for (auto count : seen) REQUIRE(count == 1);
}

}  // namespace

TEST_CASE("neighbours travel as one run") {
  auto manifest = back_to_back(100, {{Dtype::f32, 10}, {Dtype::bf16, 3}, {Dtype::bf16, 5}});
  Request request{.members = 1, .arena_bytes = 4096, .packing = {.bucket_bytes = 4096}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 1);
  CHECK(plan.copy_runs == 1);
  CHECK(plan.buckets[0].bytes == 56);
  CHECK(plan.tensor_bytes == 56);
}

TEST_CASE("a neighbour whose offset does not suit its dtype starts a run at the alignment") {
  auto manifest = back_to_back(8, {{Dtype::bf16, 3}, {Dtype::f32, 1}});
  Request request{.members = 1, .arena_bytes = 4096, .packing = {.bucket_bytes = 4096}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 1);
  CHECK(plan.copy_runs == 2);
  CHECK(plan.buckets[0].tensors[1].offset == 256);
}

TEST_CASE("runs are cut at segment borders and stay adjacent in the bucket") {
  auto manifest = back_to_back(0, {{Dtype::u8, 10'000}});
  Request request{.members = 1, .arena_bytes = 16384, .packing = {.bucket_bytes = 16384}};
  auto plan = planned(manifest, request, 4096);
  REQUIRE(plan.buckets.size() == 1);
  REQUIRE(plan.buckets[0].runs.size() == 3);
  CHECK(plan.buckets[0].runs[1].bucket_offset == 4096);
  CHECK(plan.buckets[0].runs[2].bytes == 10'000 - 8192);
}

TEST_CASE("a tensor larger than the bucket size makes a bucket of its own if the arena holds it") {
  auto manifest = back_to_back(0, {{Dtype::u8, 100}, {Dtype::u8, 3000}, {Dtype::u8, 100}});
  Request request{.members = 1, .arena_bytes = 3072, .packing = {.bucket_bytes = 1024}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 3);
  CHECK(plan.buckets[1].bytes == 3000);
  CHECK(plan.buckets[1].after == 1);
  CHECK(plan.buckets[2].after == 2);

  request.arena_bytes = 2999;
  auto refused = make_plan(manifest, weights::Layout(manifest, kMiB), request);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK(refused.error().sentence.find("t1") != std::string::npos);
}

TEST_CASE("tensors without bytes and scalars are placed") {
  auto manifest = back_to_back(64, {{Dtype::f32, 0}, {Dtype::f64, 1}, {Dtype::bf16, 0}});
  manifest.tensors[1].shape = {};
  Request request{.members = 1, .arena_bytes = 256, .packing = {.bucket_bytes = 256}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 1);
  CHECK(plan.buckets[0].tensors.size() == 3);
  check_invariants(manifest, plan, request, kMiB);
}

TEST_CASE("a model of empty tensors alone still has a bucket, so that ranks are told their names") {
  auto manifest = back_to_back(64, {{Dtype::f32, 0}});
  Request request{.members = 1, .arena_bytes = 256, .packing = {.bucket_bytes = 256}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 1);
  CHECK(plan.buckets[0].runs.empty());
  CHECK(smallest_arena_bytes(manifest, request.packing) == 256);
}

TEST_CASE("random manifests keep the invariants") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  auto below = [&](std::uint64_t n) { return std::uniform_int_distribution<std::uint64_t>(0, n - 1)(random); };
  const std::array dtypes{Dtype::u8, Dtype::bf16, Dtype::f32, Dtype::f64, Dtype::f8_e4m3};
  for (int round = 0; round < 200; ++round) {
    std::vector<std::pair<Dtype, std::uint64_t>> tensors(1 + below(20));
    for (auto& [dtype, count] : tensors) dtype = dtypes[below(dtypes.size())], count = below(900);
    auto manifest = back_to_back(8 + below(9000), tensors);
    Request request{.members = static_cast<std::uint32_t>(1 + below(4)), .packing = {.bucket_bytes = 256 + below(4096)}};
    if (below(2)) request.packing.first_bucket_bytes = 1 + below(1024);
    request.arena_bytes = smallest_arena_bytes(manifest, request.packing) + below(3) * 2048;
    const auto segment_bytes = (1 + below(3)) * 4096;
    auto plan = planned(manifest, request, segment_bytes);
    check_invariants(manifest, plan, request, segment_bytes);
    CHECK(plan.digest() == planned(manifest, request, segment_bytes).digest());
  }
}

TEST_CASE("the digest tells plans apart") {
  auto manifest = back_to_back(0, {{Dtype::u8, 1000}, {Dtype::u8, 1000}});
  Request request{.members = 2, .arena_bytes = 4096, .packing = {.bucket_bytes = 1024}};
  auto one = planned(manifest, request);
  request.fan_out = FanOut::broadcast;
  CHECK(one.digest() != planned(manifest, request).digest());
  request.fan_out = FanOut::independent;
  request.packing.bucket_bytes = 4096;
  CHECK(one.digest() != planned(manifest, request).digest());
}

TEST_CASE("two buckets of the asked size overlap upload and reload") {
  auto manifest = back_to_back(0, std::vector(64, std::pair{Dtype::u8, std::uint64_t{1024}}));
  Packing packing{.bucket_bytes = 4096};
  CHECK(wanted_arena_bytes(manifest, packing) == 8192);
  packing.bucket_bytes = kGiB;
  CHECK(wanted_arena_bytes(manifest, packing) < 70'000);
  Request request{.members = 1, .arena_bytes = 8192, .packing = {.bucket_bytes = 4096}};
  auto plan = planned(manifest, request);
  REQUIRE(plan.buckets.size() == 16);
  for (std::uint32_t i = 2; i < 16; ++i) CHECK(plan.buckets[i].after == i - 1);
}

TEST_CASE("slots remember every earlier owner of a range") {
  Slots slots(1000, 1);
  CHECK(slots.take(0, 400, 400).after == 0);
  CHECK(slots.take(1, 400, 0).after == 0);  // nothing follows that would need what is left over
  auto wrapped = slots.take(2, 300, 0);
  CHECK(wrapped.offset == 0);
  CHECK(wrapped.after == 1);
  auto behind = slots.take(3, 600, 0);  // over the rest of bucket 0 and all of bucket 1
  CHECK(behind.offset == 300);
  CHECK(behind.after == 2);
  CHECK(slots.take(4, 1000, 0).after == 4);
}

TEST_CASE("neighbours of uneven sizes that fit the arena together do not wait for each other") {
  Slots slots(1024, 8);
  std::vector<std::uint64_t> sizes{496, 480, 512, 504, 512, 488, 496, 512};
  for (std::uint32_t i = 0; i < sizes.size(); ++i) {
    const auto slot = slots.take(i, sizes[i], i + 1 < sizes.size() ? sizes[i + 1] : 0);
    CHECK(slot.offset % 8 == 0);
    CHECK(slot.after + 1 <= std::max(i, 1U));
  }
}

TEST_CASE("the first buckets are small and grow, and a large tensor in front comes last") {
  std::vector<std::pair<Dtype, std::uint64_t>> tensors(1000, {Dtype::u8, 1000});
  tensors.insert(tensors.begin(), {Dtype::u8, 50'000});
  auto manifest = back_to_back(0, tensors);
  Request request{.members = 1, .arena_bytes = 100'000, .packing = {.bucket_bytes = 50'000}};
  request.packing.first_bucket_bytes = 4000;
  auto plan = planned(manifest, request, 2 * kMiB);
  check_invariants(manifest, plan, request, 2 * kMiB);
  for (std::size_t i = 0; i < 4; ++i) CHECK(plan.buckets.at(i).bytes == 4000ULL << i);
  CHECK(plan.buckets.front().tensors.front().tensor == 1);
  CHECK(plan.buckets.at(4).bytes == 50'000);
  REQUIRE(plan.buckets.back().tensors.size() == 1);
  CHECK(plan.buckets.back().tensors.front().tensor == 0);
  CHECK(plan.copy_runs == plan.buckets.size());

  // Nothing fits the first bucket: it begins where the model begins.
  request.packing.first_bucket_bytes = 10;
  CHECK(planned(manifest, request).buckets.front().tensors.front().tensor == 0);
}

TEST_CASE("the default bucket follows the model between its bounds") {
  CHECK(default_bucket_bytes(0) == 16 * kMiB);
  CHECK(default_bucket_bytes(16 * kGiB) == 512 * kMiB);
  CHECK(default_bucket_bytes(1600 * kMiB) == 128 * kMiB);
}

TEST_CASE("copy runs of a folded version end where its bytes do not lie together") {
  const auto manifest = back_to_back(0, {{Dtype::u8, 1000}, {Dtype::u8, 3000}, {Dtype::u8, 500}});
  const Request request{.members = 1, .arena_bytes = kMiB, .packing = {.bucket_bytes = kMiB}};
  const auto layout = weights::Layout(manifest, kMiB).folded({{0, 1500, 2, 64}, {1500, 2500, 0, 0}, {4000, 500, 0, 2500}});
  auto plan = make_plan(manifest, layout, request);
  REQUIRE(plan);
  REQUIRE(plan->buckets.size() == 1);
  const auto& bucket = plan->buckets[0];
  CHECK(bucket.bytes == 4500);  // neighbours of the resting space stay neighbours in the bucket
  REQUIRE(bucket.runs.size() == 2);
  CHECK(bucket.runs[0].bytes == 1500);
  CHECK(bucket.runs[1].resting_offset == 1500);
  CHECK(bucket.runs[1].bucket_offset == 1500);
  CHECK(bucket.runs[1].bytes == 3000);
  for (const auto& run : bucket.runs) CHECK(layout.place(run.resting_offset).bytes >= run.bytes);
}

TEST_CASE("without gaps each tensor starts where the one before it ends, wherever its bytes rest") {
  // t0 and t1 are neighbours in the file; between t1 and t2, and t2 and t3, lies what nobody asks for.
  weights::Manifest manifest;
  manifest.tensors = {{"t0", Dtype::bf16, {3}, {0, 8, 6}},
                      {"t1", Dtype::bf16, {5}, {0, 14, 10}},
                      {"t2", Dtype::u8, {7}, {0, 1000, 7}},
                      {"t3", Dtype::u8, {9}, {0, 2000, 9}}};
  manifest.files.push_back({"model.safetensors", 2009, 8, "stamp"});
  Request request{.members = 1, .arena_bytes = 4096, .packing = {.bucket_bytes = 4096, .gapless = true}};
  auto plan = planned(manifest, request);
  check_invariants(manifest, plan, request, kMiB);
  REQUIRE(plan.buckets.size() == 1);
  const auto& bucket = plan.buckets[0];
  REQUIRE(bucket.tensors.size() == 4);
  CHECK(bucket.tensors[1].offset == 6);
  CHECK(bucket.tensors[2].offset == 16);
  CHECK(bucket.tensors[3].offset == 23);
  CHECK(bucket.bytes == 32);
  // The neighbours still travel together.
  REQUIRE(bucket.runs.size() == 3);
  CHECK(bucket.runs[0].bytes == 16);
  CHECK(bucket.runs[1].bucket_offset == 16);
  CHECK(bucket.runs[2].bucket_offset == 23);
  // With gaps they stand at the alignment.
  request.packing.gapless = false;
  CHECK(planned(manifest, request).buckets[0].bytes == 512 + 9);
}

TEST_CASE("without gaps a bucket ends before a tensor whose dtype could not stand there") {
  auto manifest = back_to_back(0, {{Dtype::u8, 3}, {Dtype::f32, 2}, {Dtype::bf16, 1}, {Dtype::f64, 1}, {Dtype::u8, 1}});
  Request request{.members = 1, .arena_bytes = 4096, .packing = {.bucket_bytes = 4096, .gapless = true}};
  auto plan = planned(manifest, request);
  check_invariants(manifest, plan, request, kMiB);
  REQUIRE(plan.buckets.size() == 3);
  CHECK(plan.buckets[0].bytes == 3);
  CHECK(plan.buckets[1].bytes == 10);
  CHECK(plan.buckets[1].slot_offset == 256);
  CHECK(plan.buckets[2].bytes == 9);
  CHECK(plan.buckets[2].tensors[1].offset == 8);
}

TEST_CASE("without gaps every plan still keeps what every plan must keep") {
  std::mt19937_64 random(20260817);
  const std::array dtypes{Dtype::u8, Dtype::bf16, Dtype::f32, Dtype::i64, Dtype::f8_e4m3};
  for (int round = 0; round < 50; ++round) {
    std::vector<std::pair<Dtype, std::uint64_t>> tensors;
    for (int i = 0; i < 60; ++i) tensors.emplace_back(dtypes[random() % dtypes.size()], random() % 700);
    auto manifest = back_to_back(random() % 64, tensors);
    Request request{.members = 2,
                    .arena_bytes = 16384,
                    .packing = {.bucket_bytes = 4096, .first_bucket_bytes = 512, .gapless = true}};
    auto plan = planned(manifest, request, 8192);
    check_invariants(manifest, plan, request, 8192);
    for (const auto& bucket : plan.buckets) {
      std::uint64_t end = 0;
      for (const auto& placement : bucket.tensors) {
        REQUIRE(placement.offset == end);
        end += manifest.tensors[placement.tensor].extent.bytes;
      }
      REQUIRE(bucket.bytes == end);
    }
  }
}
