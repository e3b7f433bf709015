#include "daemon/fleet/known_trouble.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "daemon/fleet/decide.h"

using namespace ckptd;
using namespace ckptd::fleet;

namespace {

using weights::Dtype;

constexpr Model kPlain{}, kFp8{.fp8 = true, .quantised = true}, kExperts{.experts = true},
    kFp8Experts{.fp8 = true, .quantised = true, .experts = true}, kInt4Experts{.quantised = true, .experts = true};

weights::Manifest manifest_of(const std::vector<std::pair<std::string, Dtype>>& tensors) {
  weights::Manifest manifest;
  for (const auto& [name, dtype] : tensors) manifest.tensors.push_back({name, dtype, {1}, {}});
  return manifest;
}

bool has(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

}  // namespace

TEST_CASE("a row of known trouble applies to a model, a way and a version, and to nothing else") {
  struct Row {
    std::string name, kind;
    Way way;
    Model model;
    std::string version, quantization, speculative, moe_backend;
    std::string id;  ///< of the row that applies; empty: none
  };
  constexpr auto kWorker = Way::worker, kNative = Way::native;
  const std::vector<Row> rows{
      {"BF16", "sglang", kWorker, kPlain, "0.5.23", "", "", "", ""},
      {"BF16 with experts", "sglang", kWorker, kExperts, "0.5.23", "", "", "", ""},
      {"FP8", "sglang", kWorker, kFp8, "0.5.23", "", "", "", "sglang-fp8"},
      {"FP8, of a server that does not tell its version", "sglang", kWorker, kFp8, "", "", "", "", "sglang-fp8"},
      {"FP8, of a version of the future", "sglang", kWorker, kFp8, "9.0.0", "", "", "", "sglang-fp8"},
      {"BF16 that the server makes FP8", "sglang", kWorker, kPlain, "0.5.23", "fp8", "", "", "sglang-fp8"},
      {"BF16 that the server makes FP8 of another kind", "sglang", kWorker, kPlain, "0.5.23", "w8a8_fp8", "", "", "sglang-fp8"},
      {"a server with another quantisation", "sglang", kWorker, kPlain, "0.5.23", "awq", "", "", ""},
      {"EAGLE", "sglang", kWorker, kPlain, "0.5.17", "", "EAGLE", "", ""},
      {"NGRAM", "sglang", kWorker, kPlain, "0.5.17", "", "NGRAM", "", "sglang-draft-runners"},
      {"NGRAM, repaired", "sglang", kWorker, kPlain, "0.5.23", "", "NGRAM", "", ""},
      {"NGRAM, newer than repaired", "sglang", kWorker, kPlain, "0.6.0", "", "NGRAM", "", ""},
      {"NGRAM, after the last before", "sglang", kWorker, kPlain, "0.5.22.post1", "", "NGRAM", "", "sglang-draft-runners"},
      {"NGRAM, version not told", "sglang", kWorker, kPlain, "", "", "NGRAM", "", ""},
      {"NGRAM, built from a tree", "sglang", kWorker, kPlain, "0.1.dev7+gabc", "", "NGRAM", "", ""},
      {"DFLASH", "sglang", kWorker, kPlain, "v0.5.20", "", "DFLASH", "", "sglang-draft-runners"},
      {"DSPARK", "sglang", kWorker, kPlain, "0.5.20", "", "DSPARK", "", "sglang-draft-runners"},

      {"BF16", "vllm", kWorker, kPlain, "0.22.0", "", "", "auto", ""},
      {"FP8 by the extension", "vllm", kWorker, kFp8, "0.22.0", "", "", "auto", "vllm-fp8"},
      {"FP8 by its own transfer", "vllm", kNative, kFp8, "0.22.0", "", "", "auto", ""},
      {"BF16 that the server makes FP8", "vllm", kWorker, kPlain, "0.22.0", "fp8", "", "auto", "vllm-fp8"},
      {"FP8 experts", "vllm", kWorker, kFp8Experts, "0.22.0", "", "", "triton", "vllm-fp8"},
      {"experts of an old one", "vllm", kWorker, kExperts, "0.8.4", "", "", "", "vllm-moe-loaders"},
      {"int4 experts of an old one", "vllm", kWorker, kInt4Experts, "0.8.4", "", "", "", "vllm-moe-loaders"},
      {"experts of the repaired one", "vllm", kWorker, kExperts, "0.8.5", "", "", "", ""},
      {"experts in between", "vllm", kWorker, kExperts, "0.19.1", "", "", "auto", ""},
      {"experts, its own choice of kernels", "vllm", kWorker, kExperts, "0.20.0", "", "", "auto", "vllm-moe-flashinfer"},
      {"experts, a release candidate", "vllm", kWorker, kExperts, "0.20.2rc1.dev353+gaefad089a", "", "", "auto",
       "vllm-moe-flashinfer"},
      {"experts, kernels not told", "vllm", kWorker, kExperts, "0.20.2", "", "", "", "vllm-moe-flashinfer"},
      {"experts with FlashInfer", "vllm", kWorker, kExperts, "0.26.0", "", "", "flashinfer_cutlass", "vllm-moe-flashinfer"},
      {"experts with Triton", "vllm", kWorker, kExperts, "0.26.0", "", "", "triton", ""},
      {"int4 experts", "vllm", kWorker, kInt4Experts, "0.26.0", "", "", "auto", ""},
      {"experts that the server quantises", "vllm", kWorker, kExperts, "0.26.0", "mxfp4", "", "auto", ""},
      {"experts by its own transfer", "vllm", kNative, kExperts, "0.26.0", "", "", "auto", ""},
      {"experts, version not told", "vllm", kWorker, kExperts, "", "", "", "auto", ""},

      {"FP8", "lmdeploy", kWorker, kFp8Experts, "0.18.0", "fp8", "NGRAM", "auto", ""},
  };
  for (const auto& row : rows) {
    INFO(row.kind << ": " << row.name);
    const Description server{.version = row.version,
                             .model = {},
                             .speculative = row.speculative,
                             .quantization = row.quantization,
                             .moe_backend = row.moe_backend,
                             .weight_transfer = {},
                             .warnings = {},
                             .unsuitable = {}};
    const auto* trouble = trouble_with({.kind = row.kind, .way = row.way, .model = row.model, .server = server});
    CHECK((trouble ? std::string(trouble->id) : "") == row.id);
  }
  std::set<std::string_view> met;
  for (const auto& row : rows) met.insert(row.id);
  for (const auto& trouble : known_troubles()) CHECK(met.contains(trouble.id));
}

TEST_CASE("a model is told by the names and types of its tensors") {
  CHECK(model_of({}) == kPlain);
  CHECK(model_of(manifest_of({{"model.layers.0.mlp.gate_proj.weight", Dtype::bf16}})) == kPlain);
  // A tensor of that type alone is no quantised weight.
  CHECK(model_of(manifest_of({{"a.weight", Dtype::f8_e4m3}, {"scale", Dtype::f32}})) == kPlain);
  CHECK(model_of(manifest_of({{"a.weight", Dtype::f8_e4m3}, {"a.weight_scale_inv", Dtype::f32}})) == kFp8);
  CHECK(model_of(manifest_of({{"a.weight_scale", Dtype::bf16}, {"a.weight", Dtype::f8_e5m2}})) == kFp8);
  CHECK(model_of(manifest_of({{"model.layers.3.mlp.experts.7.up_proj.weight", Dtype::bf16}})) == kExperts);
  CHECK(model_of(manifest_of({{"model.layers.3.mlp.shared_experts.up_proj.weight", Dtype::bf16}})) == kPlain);
  CHECK(model_of(manifest_of({{"m.experts.7.up_proj.qweight", Dtype::i32}, {"m.experts.7.up_proj.scales", Dtype::f16}})) ==
        kInt4Experts);
  CHECK(model_of(manifest_of({{"m.mlp.experts.gate_up_proj_blocks", Dtype::u8},
                              {"m.mlp.experts.gate_up_proj_scales", Dtype::u8}})) == kInt4Experts);
  CHECK(model_of(manifest_of({{"m.experts.0.w1.weight", Dtype::f8_e4m3}, {"m.experts.0.w1.weight_scale_inv", Dtype::f32}})) ==
        kFp8Experts);
}

TEST_CASE("a refusal says what goes wrong, who says so, what else can be done, and what to type") {
  for (const auto& trouble : known_troubles()) {
    INFO(trouble.id);
    const auto error = refusal(trouble, "e0", "m@2");
    CHECK(error.kind == ErrorKind::conflict);
    for (const auto part : {trouble.id, trouble.name, trouble.sources, trouble.what, trouble.instead, trouble.from,
                            trouble.before, std::string_view("ckptctl update m@2 --engine e0 --force"),
                            std::string_view("was not touched")})
      CHECK(has(error.sentence, part));
    CHECK_FALSE(has(error.sentence, ".."));
    CHECK(std::ranges::find(error.facts, std::pair<std::string, std::string>("known_trouble", trouble.id)) !=
          error.facts.end());
  }
}

namespace {

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream rest(line.substr(1));
  for (std::string cell; std::getline(rest, cell, '|');) {
    const auto first = cell.find_first_not_of(' '), last = cell.find_last_not_of(' ');
    cells.push_back(first == cell.npos ? "" : cell.substr(first, last - first + 1));
  }
  return cells;
}

}  // namespace

TEST_CASE("docs/engines.md has one row for each known trouble, and no other that says broken") {
  std::ifstream file(CKPTD_ENGINES);
  REQUIRE(file);
  std::map<std::string, std::vector<std::string>> rows;  ///< by id
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("|") || !has(line, "known broken")) continue;
    INFO(line);
    const auto cells = cells_of(line);
    REQUIRE(cells.size() == 4);
    const auto& by = cells[3];
    REQUIRE(by.starts_with("`"));
    const auto end = by.find("`: ");
    REQUIRE(end != by.npos);
    CHECK(rows.emplace(by.substr(1, end - 1), cells).second);
  }
  for (const auto& trouble : known_troubles()) {
    INFO(trouble.id);
    const auto at = rows.find(std::string(trouble.id));
    REQUIRE(at != rows.end());
    const auto& cells = at->second;
    CHECK(cells[3] == fmt::format("`{}`: {}", trouble.id, trouble.sources));
    CHECK(cells[1].starts_with(trouble.name));
    CHECK(has(cells[1], trouble.from.empty() ? std::string() : fmt::format("from {} on", trouble.from)));
    CHECK(has(cells[1], trouble.before.empty() ? std::string() : fmt::format("before {}", trouble.before)));
    CHECK(has(cells[1], "all versions") == (trouble.from.empty() && trouble.before.empty()));
    rows.erase(at);
  }
  for (const auto& [id, cells] : rows) FAIL_CHECK("docs/engines.md says known broken, and the table has no " << id);
}

TEST_CASE("an engine is not brought by itself to what is known to go wrong with it, and says what to type") {
  const VersionRef one{"m@1", "i1", "s"}, two{"m@2", "i2", "s"};
  const Look serving{.seen = Observation{.state = Observation::State::serving, .weight_version = {}, .listener = {}}};
  Facts facts{.target = two, .given = one, .look = serving, .target_is = Residency::resident, .trouble = "it goes wrong"};
  auto decision = decide(facts);
  CHECK(decision.state == State::serving);
  CHECK(decision.next == Next::tell);
  CHECK(decision.ready);  // with what it has
  CHECK(decision.why == "it serves m@1, and is not given m@2 by itself: it goes wrong");

  facts.given.reset();
  decision = decide(facts);
  CHECK((decision.state == State::waiting && decision.next == Next::tell && !decision.ready));
  facts.given = two;  // it has what is known to go wrong, and nothing is to be done
  CHECK(decide(facts).next == Next::nothing);
  facts.trouble.clear();
  facts.given = one;
  CHECK(decide(facts).next == Next::push);
}
