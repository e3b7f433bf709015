#include "daemon/fleet/suitability.h"

#include <catch2/catch.hpp>

using namespace ckptd;
using namespace ckptd::fleet;

TEST_CASE("ranks and devices go together, or it is said why not") {
  struct Row {
    std::string name, kind;
    unsigned ranks, nodes;
    std::size_t devices;
    std::string words;  ///< empty: nothing is said
  };
  for (const auto& row : std::vector<Row>{
           {"as many of both", "sglang", 8, 1, 8, ""},
           {"the server does not tell", "sglang", 0, 1, 8, ""},
           {"a SGLang with ranks that nobody serves", "sglang", 2, 1, 1,
            "it has 2 ranks, and is registered with 1 device: the other ranks would keep what they have"},
           {"another kind says so itself", "vllm", 2, 1, 1, ""},
           {"endpoints at which nobody would ask", "vllm", 1, 1, 8, "it has 1 rank, and is registered with 8 devices"},
           {"the same of a SGLang", "sglang", 2, 1, 8, "--devices"},
           {"ranks on other nodes", "sglang", 16, 2, 8, "on 2 nodes"},
           {"the same of a kind that says so", "vllm", 16, 2, 8, ""},
       }) {
    INFO(row.name);
    Description about;
    about.ranks = row.ranks;
    about.nodes = row.nodes;
    const auto said = unsuitable(row.kind, about, row.devices);
    CHECK(said.has_value() == !row.words.empty());
    if (!said) continue;
    INFO(said->sentence);
    CHECK(said->kind == ErrorKind::conflict);
    CHECK(said->sentence.find(row.words) != std::string::npos);
  }
}

TEST_CASE("what a server cannot do at all comes first") {
  Description about;
  about.ranks = 2;
  about.unsuitable = Error{ErrorKind::unsupported, "it is not in development mode"};
  REQUIRE(unsuitable("vllm", about, 8));
  CHECK(unsuitable("vllm", about, 8)->kind == ErrorKind::unsupported);
}
