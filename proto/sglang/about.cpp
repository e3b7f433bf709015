#include "proto/sglang/about.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "proto/answer/document.h"
#include "proto/answer/members.h"

namespace ckptd::proto::sglang {
namespace {

using nlohmann::json;
using answer::count_at;
using answer::text_at;
using answer::truth_at;

constexpr std::string_view kNotSglang = "it is no SGLang, or an older one than is supported";

/// NGRAM drafts from a table and UNO with the target itself; multi-layer EAGLE has one model for each step.
unsigned draft_models(const json& info, const std::string& algorithm) {
  if (algorithm.empty() || algorithm == "NGRAM" || algorithm == "UNO") return 0;
  if (truth_at(info, "enable_multi_layer_eagle")) return count_at(info, "speculative_num_steps", 1);
  return 1;
}

Result<json> object_of(const answer::Asked& asked, unsigned status, std::string_view body) {
  if (status != 200) return answer::refusal(asked, status, body, kNotSglang);
  auto object = answer::document_in(body);
  if (object.is_object()) return object;
  return answer::nonsense(asked, body, "not with a JSON object; is this endpoint an SGLang server?");
}

}  // namespace

Result<std::string> read_weight_version(unsigned status, std::string_view body, answer::Key sent) {
  const auto info = CKPTD_TRY(object_of({"GET /model_info", sent}, status, body));
  return text_at(info, "weight_version");
}

Result<ServerInfo> read_server_info(unsigned status, std::string_view body, answer::Key sent) {
  const auto json_info = CKPTD_TRY(object_of({"GET /server_info", sent}, status, body));
  ServerInfo info;
  info.version = text_at(json_info, "version");
  info.model = text_at(json_info, "model_path");
  info.tensor_parallel = count_at(json_info, "tp_size", 1);
  info.pipeline_parallel = count_at(json_info, "pp_size", 1);
  info.data_parallel = count_at(json_info, "dp_size", 1);
  info.nodes = count_at(json_info, "nnodes", 1);
  info.data_parallel_attention = truth_at(json_info, "enable_dp_attention");
  info.speculative = text_at(json_info, "speculative_algorithm");
  std::ranges::transform(info.speculative, info.speculative.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (info.speculative == "NONE") info.speculative.clear();
  info.draft_models = draft_models(json_info, info.speculative);
  info.memory_saver = truth_at(json_info, "enable_memory_saver");
  info.weight_cache_mode = text_at(json_info, "weight_cache_mode");
  info.waits_for_weights = truth_at(json_info, "checkpoint_engine_wait_weights_before_ready");
  info.load_format = text_at(json_info, "load_format");
  info.quantization = text_at(json_info, "quantization");
  return info;
}

bool offers_route(std::string_view openapi, std::string_view route) {
  const auto document = answer::document_in(openapi);
  if (!document.is_object()) return false;
  const auto paths = document.find("paths");
  return paths != document.end() && paths->is_object() && paths->contains(std::string(route));
}

}  // namespace ckptd::proto::sglang
