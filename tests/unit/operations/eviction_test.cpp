#include "daemon/operations/eviction.h"

#include <catch2/catch.hpp>

#include <numeric>

#include "common/units.h"
#include "daemon/operations/handover.h"

using namespace ckptd;
using namespace ckptd::operations;
using proto::control::LoadPolicy;

namespace {

/// Versions of m, numbered, each with segments of its own: use, segments, what speaks for it.
struct Row {
  std::uint64_t use;
  unsigned segments;
  std::string claim = {};  ///< kept, leased, engine, or a NAME of its own
};

std::vector<Holder> holders_of(const std::vector<Row>& rows) {
  std::vector<Holder> holders;
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i];
    Holder holder{{"m", std::to_string(i)}, {}, row.use, row.claim.contains("kept"), {}, {}};
    if (row.claim.contains("leased")) holder.leased_by = {"update-7"};
    if (row.claim.contains("engine")) holder.engines = {"sglang-0"};
    if (row.claim.contains("other")) holder.id.name = "other";
    for (unsigned s = 0; s < row.segments; ++s) holder.segments.push_back({next++});
    holders.push_back(std::move(holder));
  }
  return holders;
}

const Error kRefusal{ErrorKind::no_space, "it does not fit"};

std::string decide(std::uint64_t missing, const std::vector<Holder>& holders,
                   LoadPolicy policy = LoadPolicy::availability) {
  auto leaving = choose_who_leaves({{"m", "new"}, missing, kMiB, policy}, holders, kRefusal);
  if (!leaving) return "no";
  std::string text;
  for (const auto& each : *leaving) text += fmt::format("{}{}", each.holder, each.given_over ? "!" : "");
  return text;
}

}  // namespace

TEST_CASE("who leaves, and in which order") {
  struct Case {
    std::string name;
    std::uint64_t missing;
    std::vector<Row> rows;
    std::string available, resource;
  };
  const auto each = GENERATE(values<Case>({
      {"nothing is missing", 0, {{1, 3}}, "", ""},
      {"nobody is there", 1, {}, "no", "no"},
      {"the oldest use leaves", 2, {{5, 2}, {1, 2}, {3, 2}}, "1", "1"},
      {"as many as are needed", 3, {{5, 2}, {1, 2}, {3, 2}}, "12", "12"},
      {"all of them", 6, {{5, 2}, {1, 2}, {3, 2}}, "120", "120"},
      {"nobody when all would not do", 7, {{5, 2}, {1, 2}, {3, 2}}, "no", "no"},
      {"a small old one stays if a large one must go", 4, {{1, 1}, {2, 4}}, "1", "1"},
      {"of two that would do the older one leaves", 2, {{1, 2}, {2, 2}}, "0", "0"},
      {"kept ones stay", 2, {{1, 2, "kept"}, {2, 2}}, "1", "1"},
      {"leased ones stay", 2, {{1, 2, "leased"}, {2, 2}}, "1", "1"},
      {"what engines have stays, or is given over", 2, {{1, 2, "engine"}}, "no", "0!"},
      {"given over last, though used longest ago", 2, {{1, 2, "engine"}, {9, 2}}, "1", "1"},
      {"given over as well", 4, {{1, 2, "engine"}, {9, 2}}, "no", "10!"},
      {"only what is needed of it", 3, {{1, 3, "engine"}, {9, 2}}, "no", "0!"},
      {"kept ones are not given over", 2, {{1, 2, "engine kept"}}, "no", "no"},
      {"leased ones are not given over", 2, {{1, 2, "engine leased"}}, "no", "no"},
      {"another name's are not given over", 2, {{1, 2, "engine other"}}, "no", "no"},
      {"another name's unclaimed ones leave", 2, {{1, 2, "other"}}, "0", "0"},
  }));
  INFO(each.name);
  const auto holders = holders_of(each.rows);
  CHECK(decide(each.missing, holders) == each.available);
  CHECK(decide(each.missing, holders, LoadPolicy::resource) == each.resource);
}

TEST_CASE("a segment is free when all its holders have left") {
  auto holders = holders_of({{1, 0}, {2, 0}, {3, 0}});
  holders[0].segments = {{1}, {2, 2}};
  holders[1].segments = {{2, 2}, {3}};
  holders[2].segments = {{9}, {10, 2}};  // 10 is held by a load as well
  CHECK(decide(1, holders) == "0");   // 1
  CHECK(decide(2, holders) == "01");  // 1, 2, 3
  CHECK(decide(3, holders) == "01");
  CHECK(decide(4, holders) == "012");
  CHECK(decide(5, holders) == "no");
  holders[1].kept = true;
  CHECK(decide(2, holders) == "02");
  CHECK(decide(3, holders) == "no");
}

TEST_CASE("the refusal says who holds the memory, why that stays and what to do") {
  auto holders = holders_of({{1, 2, "kept"}, {2, 1, "leased"}, {3, 4, "engine"}, {4, 1}, {5, 1, "engine other"}});
  auto refused = choose_who_leaves({{"m", "new"}, 5, kMiB, LoadPolicy::availability}, holders, kRefusal);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::no_space);
  for (const auto* words : {"it does not fit. Nothing was evicted, since 5.00 MiB more are needed and 1.00 MiB could be freed",
                            "m@0 (2.00 MiB) is kept (release it with `ckptctl unkeep m@0`)", "m@1 (1.00 MiB) is in use by update-7",
                            "m@2 (4.00 MiB) is what sglang-0 serves or should serve (load with --policy resource",
                            "m@3 (1.00 MiB) could leave", "other@4 (1.00 MiB) is what sglang-0 serves or should serve (`ckptctl evict"})
    CHECK_THAT(refused.error().sentence, Catch::Matchers::Contains(words));
}

TEST_CASE("what status says of a version that was given over") {
  const Handover handover{{"llama", "1"}, "file:///w/1", {"llama", "2"}, "load-7"};
  CHECK_FALSE(handover_note(handover, Arrival::loading, {}));
  CHECK(handover_note(handover, Arrival::loading, {"e"}) ==
        "llama: no fallback while load-7 runs: llama@1 was given over to llama@2");
  CHECK(handover_note(handover, Arrival::resident, {"e"}) ==
        "llama: no fallback until e is updated to llama@2 (`ckptctl update llama@2`): llama@1 was given over to it");
  CHECK(handover_note(handover, Arrival::missing, {"e", "f"}) ==
        "llama: no fallback: llama@1 was given over to llama@2, which is not resident (see `ckptctl job show load-7`); "
        "e, f still have llama@1: load it again with `ckptctl load llama@1 file:///w/1`");
}
