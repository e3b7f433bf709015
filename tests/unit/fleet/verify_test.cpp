#include "daemon/fleet/verify.h"

#include <catch2/catch.hpp>

using namespace ckptd::fleet;

namespace {

const std::vector<RankChecksums> kTwoRanks{{"tp0", {{"a", "1"}, {"b", "2"}}}, {"tp1", {{"a", "3"}, {"b", "4"}}}};

bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("equal statements are equal, in whatever order their ranks come") {
  const auto turned = std::vector{kTwoRanks[1], kTwoRanks[0]};
  const auto comparison = compare(kTwoRanks, turned);
  CHECK(comparison.equal());
  CHECK(comparison.ranks == 2);
  CHECK(comparison.tensors == 4);
  CHECK(same_shape(kTwoRanks, turned));
}

TEST_CASE("a changed tensor is named with its rank") {
  auto now = kTwoRanks;
  now[1].by_tensor["b"] = "5";
  const auto comparison = compare(now, kTwoRanks);
  REQUIRE(comparison.differences.size() == 1);
  CHECK(comparison.differences[0].rank == "tp1");
  CHECK(comparison.differences[0].tensors == std::vector<std::string>{"b"});
  CHECK(show(comparison) == "rank tp1 differs in 1 tensor (b)");
  CHECK(same_shape(now, kTwoRanks));
}

TEST_CASE("ranks with the same sums under each other's names are not equal") {
  const std::vector<RankChecksums> swapped{{"tp0", kTwoRanks[1].by_tensor}, {"tp1", kTwoRanks[0].by_tensor}};
  CHECK(compare(swapped, kTwoRanks).differences.size() == 2);
}

TEST_CASE("tensors and ranks that only one side has are differences, and another shape") {
  auto now = kTwoRanks;
  now[0].by_tensor.erase("a");
  now[0].by_tensor["c"] = "9";
  CHECK_FALSE(same_shape(now, kTwoRanks));
  CHECK(show(compare(now, kTwoRanks)) == "rank tp0 lacks 1 of them and has 1 more");
  const auto one = std::vector{kTwoRanks[0]};
  CHECK_FALSE(same_shape(one, kTwoRanks));
  CHECK_FALSE(same_shape(kTwoRanks, one));
  const auto comparison = compare(one, kTwoRanks);
  REQUIRE(comparison.differences.size() == 1);
  CHECK(comparison.differences[0].missing == 2);
  CHECK(comparison.ranks == 1);
}

TEST_CASE("a sentence about many ranks and tensors stays a sentence") {
  std::vector<RankChecksums> now, other;
  for (int rank = 0; rank < 100; ++rank) {
    now.push_back({std::to_string(rank), {}});
    other.push_back({std::to_string(rank), {}});
    for (int tensor = 0; tensor < 1000; ++tensor) {
      now.back().by_tensor["t" + std::to_string(tensor)] = "1";
      other.back().by_tensor["t" + std::to_string(tensor)] = "2";
    }
  }
  const auto text = show(compare(now, other));
  CHECK(text.size() < 1000);
  CHECK(holds(text, "1000 tensors"));
  CHECK(holds(text, "95 more ranks"));
}

TEST_CASE("what statements take is counted") {
  CHECK(bytes_of({}) == 0);
  CHECK(bytes_of(kTwoRanks) == 2 * 3 + 4 * 2);
}
