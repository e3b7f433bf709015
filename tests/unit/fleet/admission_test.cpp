#include "daemon/fleet/admission.h"

#include <catch2/catch.hpp>

using namespace ckptd;
using namespace ckptd::fleet;

TEST_CASE("an engine is given a version only if it fits") {
  const VersionRef served{"m@1", "i1", "s1"}, same{"m@2", "i2", "s1"}, other{"m@3", "i3", "s2"};
  struct Row {
    std::string why, checkpoint;
    std::optional<VersionRef> serving;
    VersionRef wanted;
    bool force, admitted;
  };
  const std::vector<Row> rows{
      {"nothing was served yet", "m", std::nullopt, other, false, true},
      {"the same names, shapes and dtypes", "m", served, same, false, true},
      {"the version that it serves, again", "m", served, served, false, true},
      {"another schema", "m", served, other, false, false},
      {"another schema, forced", "m", served, other, true, true},
      {"another NAME", "n", std::nullopt, same, false, false},
      {"another NAME, forced", "n", std::nullopt, same, true, true},
  };
  for (const auto& row : rows) {
    INFO(row.why);
    auto answer = admit({"sglang-0", row.checkpoint, row.serving}, "m", row.wanted, {"a: gone"}, row.force);
    CHECK(answer.has_value() == row.admitted);
    if (answer) continue;
    CHECK(answer.error().kind == ErrorKind::conflict);
    CHECK(answer.error().sentence.find("sglang-0") != std::string::npos);
    CHECK(answer.error().sentence.find("--force") != std::string::npos);
  }
}

TEST_CASE("the refusal names what differs, or says that it is no longer known") {
  const VersionRef served{"m@1", "i1", "s1"}, other{"m@3", "i3", "s2"};
  auto named = admit({"e", "m", served}, "m", other, {"lm_head: F32 here, BF16 there"}, false);
  REQUIRE_FALSE(named);
  CHECK(named.error().sentence.find("lm_head: F32 here, BF16 there") != std::string::npos);
  auto unknown = admit({"e", "m", served}, "m", other, {}, false);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().sentence.find("no longer known") != std::string::npos);
}
