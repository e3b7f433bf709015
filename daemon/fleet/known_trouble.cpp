#include "daemon/fleet/known_trouble.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>

namespace ckptd::fleet {
namespace {

using Numbers = std::array<unsigned, 3>;

/// "0.20.2rc1" and "v0.8.5.post1" as three numbers; what stands behind them says nothing about a report. A build from a
/// source tree often has no version but "0.1.dev7": that one tells nothing.
std::optional<Numbers> numbers_of(std::string_view version) {
  if (version.starts_with("v")) version.remove_prefix(1);
  Numbers numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0) {
      if (!version.starts_with(".")) return std::nullopt;
      version.remove_prefix(1);
    }
    const auto* const end = version.data() + version.size();
    const auto [stop, error] = std::from_chars(version.data(), end, numbers[i]);
    if (error != std::errc{}) return std::nullopt;
    version.remove_prefix(static_cast<std::size_t>(stop - version.data()));
  }
  return numbers;
}

bool is_fp8(const Circumstances& now) {
  return now.model.fp8 || now.server.quantization.find("fp8") != std::string::npos;
}

bool is_plain_mixture_of_experts(const Circumstances& now) {
  return now.model.experts && !now.model.quantised && now.server.quantization.empty();
}

/// A server that was told nothing takes the fastest that its GPU has, and on Hopper and Blackwell that is FlashInfer's.
bool may_use_flashinfer(const Circumstances& now) {
  const auto& backend = now.server.moe_backend;
  return backend.empty() || backend == "auto" || backend.starts_with("flashinfer");
}

bool drafts_without_runners(const Circumstances& now) {
  const auto& algorithm = now.server.speculative;
  return algorithm == "NGRAM" || algorithm.starts_with("DFLASH") || algorithm.starts_with("DSPARK");
}

constexpr std::string_view kNativeTransfer =
    "start it with VLLM_ALLOW_INSECURE_SERIALIZATION=1 and --weight-transfer-config '{\"backend\":\"ipc\"}' (vLLM 0.22 or "
    "newer), which puts the model together anew";

const std::array kTroubles{
    KnownTrouble{"sglang-fp8", "sglang", "SGLang", Way::worker, "", "",
                 "sgl-project/sglang#30749, #30761, #5424",
                 "FP8 weights that are loaded over a live model crash the load or are served with wrong scales, since "
                 "what was made of them at the start is not undone (reported for per-channel scales, and for blocks where "
                 "DeepGEMM wants UE8M0 scales)",
                 "start the server anew from the version's own files", is_fp8},
    KnownTrouble{"sglang-draft-runners", "sglang", "SGLang", Way::worker, "", "0.5.23",
                 "sgl-project/sglang#35403, #31078",
                 "an update looks for the draft model where NGRAM has none and DFLASH and DSPARK have theirs elsewhere, "
                 "and fails when the target has its weights",
                 "take SGLang 0.5.23 or newer, or start it without --speculative-algorithm", drafts_without_runners},
    KnownTrouble{"vllm-fp8", "vllm", "vLLM", Way::worker, "", "", "vllm-project/vllm#28425, #14266",
                 "FP8 weights have lost their loaders after the start, or were transposed, so that what is loaded over "
                 "them fails or is wrong",
                 kNativeTransfer, is_fp8},
    KnownTrouble{"vllm-moe-loaders", "vllm", "vLLM", Way::worker, "", "0.8.5",
                 "vllm-project/vllm#17915, #17429, #16842",
                 "fused experts have lost their loaders after the start, so that loading over them fails",
                 "take vLLM 0.8.5 or newer", [](const Circumstances& now) { return now.model.experts; }},
    KnownTrouble{"vllm-moe-flashinfer", "vllm", "vLLM", Way::worker, "0.20.0", "",
                 "vllm-project/vllm#42821, NovaSky-AI/SkyRL#1680",
                 "with FlashInfer's kernels the halves of fused experts are swapped at the start, and what is loaded over "
                 "them is not: wrong output without an error",
                 "start it with --moe-backend triton, or by its own transfer: start it with "
                 "VLLM_ALLOW_INSECURE_SERIALIZATION=1 and --weight-transfer-config '{\"backend\":\"ipc\"}' (vLLM 0.22 or "
                 "newer)",
                 [](const Circumstances& now) { return is_plain_mixture_of_experts(now) && may_use_flashinfer(now); }},
};

bool ends_with_one_of(std::string_view name, std::initializer_list<std::string_view> ends) {
  return std::ranges::any_of(ends, [&](std::string_view end) { return name.ends_with(end); });
}

bool is_of_eight_bit_floats(weights::Dtype dtype) {
  using enum weights::Dtype;
  return dtype == f8_e4m3 || dtype == f8_e5m2 || dtype == f8_e4m3fnuz || dtype == f8_e5m2fnuz;
}

}  // namespace

Model model_of(const weights::Manifest& manifest) {
  std::unordered_set<std::string_view> names;
  for (const auto& tensor : manifest.tensors) names.insert(tensor.name);
  Model model;
  for (const auto& tensor : manifest.tensors) {
    const std::string_view name = tensor.name;
    model.experts = model.experts || name.find(".experts.") != name.npos;
    model.quantised = model.quantised || ends_with_one_of(name, {".weight_scale", ".weight_scale_inv", ".qweight",
                                                                 ".weight_packed", ".scales", "_proj_scales"});
    // Any tensor may be of that type; a weight is quantised when it cannot be read without its scale.
    model.fp8 = model.fp8 || (is_of_eight_bit_floats(tensor.dtype) && (names.contains(tensor.name + "_scale_inv") ||
                                                                       names.contains(tensor.name + "_scale")));
  }
  model.quantised = model.quantised || model.fp8;
  return model;
}

std::span<const KnownTrouble> known_troubles() { return kTroubles; }

bool applies_to(const KnownTrouble& trouble, std::string_view version) {
  if (trouble.from.empty() && trouble.before.empty()) return true;
  const auto told = numbers_of(version);
  if (!told) return false;
  if (!trouble.from.empty() && *told < *numbers_of(trouble.from)) return false;
  return trouble.before.empty() || *told < *numbers_of(trouble.before);
}

const KnownTrouble* trouble_with(const Circumstances& now) {
  const auto at = std::ranges::find_if(kTroubles, [&](const KnownTrouble& row) {
    return row.kind == now.kind && row.way == now.way && applies_to(row, now.server.version) && row.concerns(now);
  });
  return at == kTroubles.end() ? nullptr : &*at;
}

std::string show(const KnownTrouble& trouble) {
  std::string versions;
  if (!trouble.from.empty()) versions += fmt::format(" from {} on", trouble.from);
  if (!trouble.before.empty()) versions += fmt::format(" before {}", trouble.before);
  return fmt::format("{}{} is reported to load this wrongly: {} ({}; {} in docs/engines.md)", trouble.name, versions,
                     trouble.what, trouble.sources, trouble.id);
}

std::string forced_update(const std::string& engine, const std::string& version) {
  return fmt::format("ckptctl update {} --engine {} --force", version, engine);
}

Error refusal(const KnownTrouble& trouble, const std::string& engine, const std::string& version) {
  return Error{ErrorKind::conflict, fmt::format("engine {} is not given {}, and was not touched: {}. Instead, {}; or {}, "
                                                "which is remembered",
                                                engine, version, show(trouble), trouble.instead,
                                                forced_update(engine, version))}
      .with_fact("engine", engine)
      .with_fact("known_trouble", std::string(trouble.id));
}

}  // namespace ckptd::fleet
