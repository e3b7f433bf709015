// Who uploads which bucket, on machines that are made of numbers.
#include "daemon/plan/owners.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include "daemon/plan/plan.h"

using namespace ckptd;
using namespace ckptd::plan;

namespace {

constexpr std::uint64_t kBucket = 512;

struct Given {
  std::vector<std::uint32_t> owners;
  std::vector<std::uint64_t> bytes;
  std::size_t near = 0;  ///< buckets whose owner is on their node
};

/// Buckets of equal size on these nodes.
Given give(const std::vector<int>& member_nodes, const std::vector<int>& bucket_nodes,
           std::uint64_t most_ahead_bytes = kBucket) {
  Owners owners(member_nodes, most_ahead_bytes);
  Given given;
  for (const int node : bucket_nodes) {
    given.owners.push_back(owners.next(node, kBucket));
    if (member_nodes[given.owners.back()] == node) ++given.near;
  }
  given.bytes.assign(owners.bytes().begin(), owners.bytes().end());
  return given;
}

/// `run` buckets on node 0, as many on node 1, and so on.
std::vector<int> in_turns(std::size_t buckets, std::size_t run, int nodes) {
  std::vector<int> list;
  for (std::size_t i = 0; i < buckets; ++i) list.push_back(static_cast<int>(i / run) % nodes);
  return list;
}

bool takes_turns(const std::vector<std::uint32_t>& owners) {
  return std::ranges::adjacent_find(owners) == owners.end();
}

std::uint64_t spread(const std::vector<std::uint64_t>& bytes) {
  return std::ranges::max(bytes) - std::ranges::min(bytes);
}

}  // namespace

TEST_CASE("a bucket goes to a member on its node") {
  struct Row {
    std::vector<int> members, buckets;
    std::vector<std::uint32_t> owners;
  };
  const std::vector<Row> table{
      {{0, 0, 1, 1}, {0, 0, 1, 1}, {0, 1, 2, 3}},        // each node's members in turn
      {{0, 1, 0, 1}, {0, 0, 1, 1}, {0, 2, 3, 1}},        // whatever their order
      {{0, 0, 1, 1}, {1, 1, 0, 0}, {2, 3, 0, 1}},
      {{0, 0, 1, 1}, {0, -1, 1, -1}, {0, 1, 2, 3}},      // what lies anywhere goes to who has least
      {{0, -1, 1, -1}, {0, 1, 0, 1}, {0, 2, 3, 1}},      // two in a row have two owners, and nobody is far ahead
      {{0, 0}, {0, 0, 1, 1}, {0, 1, 0, 1}},              // nobody there: as if nothing were known
      {{0, 1}, {0, 0, 1, 1}, {0, 1, 0, 1}},              // two members take turns, whatever their nodes
      {{0}, {0, 1, 0}, {0, 0, 0}},
      {{-1, -1, -1}, {0, 1, 0, 1}, {0, 1, 2, 0}},
  };
  for (const auto& row : table) {
    CAPTURE(row.members, row.buckets);
    CHECK(give(row.members, row.buckets).owners == row.owners);
  }
}

TEST_CASE("eight GPUs on two nodes: all buckets are near, the shares even, and no link is idle for long") {
  for (const std::size_t run : {1, 2, 4, 8}) {
    CAPTURE(run);
    const auto given = give({0, 0, 0, 0, 1, 1, 1, 1}, in_turns(160, run, 2), 3 * kBucket);
    CHECK(given.near == 160);
    CHECK(takes_turns(given.owners));
    CHECK(spread(given.bytes) <= kBucket);  // 20 buckets are a share
  }
}

TEST_CASE("where all lies on one node, its members get little more than their share") {
  const std::uint64_t most_ahead = GENERATE(kBucket, 3 * kBucket, 7 * kBucket / 2);
  const auto given = give({0, 0, 1, 1}, std::vector<int>(100, 0), most_ahead);
  CHECK(spread(given.bytes) <= most_ahead + kBucket);
  CHECK(takes_turns(given.owners));
  CHECK(std::accumulate(given.bytes.begin(), given.bytes.end(), std::uint64_t{0}) == 100 * kBucket);
}

TEST_CASE("members that are unevenly spread still have even shares") {
  const auto given = give({0, 0, 0, 0, 0, 0, 1, 1}, in_turns(400, 2, 2));
  CHECK(spread(given.bytes) <= 2 * kBucket);
  CHECK(given.near >= 200);  // the two of node 1 cannot take all of its half
}

TEST_CASE("a plan's owners go by where the layout's segments are") {
  constexpr std::uint64_t kSegment = 64 * kKiB;
  weights::Manifest manifest;
  std::uint64_t at = 0;
  for (int i = 0; i < 64; ++i) {
    manifest.tensors.push_back({fmt::format("t{}", i), weights::Dtype::u8, {16 * kKiB}, {0, at, 16 * kKiB}});
    at += 16 * kKiB;
  }
  manifest.files.push_back({"model.safetensors", at, 0, "stamp"});
  const weights::Layout layout(manifest, kSegment);
  REQUIRE(layout.segment_count() == 16);
  Request request{.members = 4,
                  .arena_bytes = 2 * kSegment,
                  .packing = {16 * kKiB, 256, 0},
                  .fan_out = FanOut::broadcast,
                  .member_nodes = {0, 1, 0, 1},
                  .segment_nodes = {}};
  for (int segment = 0; segment < 16; ++segment) request.segment_nodes.push_back(segment % 2);
  const auto plan = make_plan(manifest, layout, request);
  REQUIRE(plan);
  REQUIRE(plan->buckets.size() == 64);
  std::vector<std::uint64_t> bytes(4);
  for (const auto& bucket : plan->buckets) {
    const auto segment = layout.place(bucket.runs.front().resting_offset).segment;
    CHECK(request.member_nodes[bucket.owner] == request.segment_nodes[segment]);
    bytes[bucket.owner] += bucket.bytes;
  }
  CHECK(bytes == std::vector<std::uint64_t>(4, 16 * 16 * kKiB));

  // Nothing known on either side: in turns, as ever.
  for (auto* nodes : {&request.member_nodes, &request.segment_nodes}) {
    auto less = request;
    (nodes == &request.member_nodes ? less.member_nodes : less.segment_nodes) = {-1, -1, -1, -1};
    const auto plain = make_plan(manifest, layout, less);
    REQUIRE(plain);
    for (std::uint32_t i = 0; i < plain->buckets.size(); ++i) CHECK(plain->buckets[i].owner == i % 4);
  }
}
