#include "daemon/store/admission.h"

#include <catch2/catch.hpp>

#include <limits>

#include "common/units.h"

using namespace ckptd;
using namespace ckptd::store;
using Catch::Matchers::Contains;

TEST_CASE("2 % stay free, at least 256 MiB") {
  CHECK(reserve_below(0) == 256 * kMiB);
  CHECK(reserve_below(12 * kGiB) == 256 * kMiB);
  CHECK(reserve_below(1000 * kGiB) == 20 * kGiB);
}

TEST_CASE("new memory is admitted up to the last byte above the reserve") {
  const std::vector ceilings{Ceiling{"this machine", 10 * kGiB, 256 * kMiB + 100}};
  CHECK(admit_new_memory(100, 0, ceilings));
  CHECK_FALSE(admit_new_memory(101, 0, ceilings));
  CHECK(admit_new_memory(60, 40, ceilings));
  CHECK_FALSE(admit_new_memory(61, 40, ceilings));
  CHECK_FALSE(admit_new_memory(1, 101, ceilings));
  CHECK_FALSE(admit_new_memory(std::numeric_limits<std::uint64_t>::max(), 40, ceilings));
  CHECK(admit_new_memory(0, 1000, ceilings));
  CHECK(admit_new_memory(std::numeric_limits<std::uint64_t>::max(), 0, {}));
}

TEST_CASE("the tightest ceiling is named, with numbers") {
  const std::vector ceilings{Ceiling{"this machine", 64 * kGiB, 60 * kGiB},
                             Ceiling{"the control group /sys/fs/cgroup/x", 4 * kGiB, kGiB}};
  auto refused = admit_new_memory(2 * kGiB, 0, ceilings);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence,
             Contains("/sys/fs/cgroup/x") && Contains(show_bytes(2 * kGiB)) && Contains("evict"));
  CHECK(refused.error().facts.at(0) == std::pair<std::string, std::string>("needed_bytes", "2147483648"));
}

TEST_CASE("a machine that is below its reserve already admits nothing") {
  const std::vector ceilings{Ceiling{"this machine", 10 * kGiB, 1}};
  CHECK_FALSE(admit_new_memory(1, 0, ceilings));
}

TEST_CASE("the budget is exact and survives absurd counts") {
  CHECK(admit_into_budget(4, 0, 4, kGiB));
  CHECK(admit_into_budget(1, 3, 4, kGiB));
  CHECK(admit_into_budget(0, 4, 4, kGiB));
  auto refused = admit_into_budget(2, 3, 4, kGiB);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  CHECK_THAT(refused.error().sentence,
             Contains("--store-budget") && Contains("evict") && Contains(show_bytes(3 * kGiB)));

  auto absurd = admit_into_budget(std::numeric_limits<std::uint64_t>::max(), 3, 4, kGiB);
  REQUIRE_FALSE(absurd);
  CHECK_THAT(absurd.error().sentence, Contains("--store-budget") && Contains("does not help"));
}
