#include "proto/vllm/about.h"

#include <nlohmann/json.hpp>

#include "proto/answer/document.h"

namespace ckptd::proto::vllm {
namespace {

using nlohmann::json;

/// The member behind a path of names, or null where something on the way is no object or not there.
const json& at(const json& from, std::initializer_list<const char*> path) {
  static const json kNothing;
  const json* value = &from;
  for (const auto* name : path) {
    if (!value->is_object() || !value->contains(name)) return kNothing;
    value = &(*value)[name];
  }
  return *value;
}

std::string text(const json& value) { return value.is_string() ? value.get<std::string>() : std::string(); }

std::optional<unsigned> count(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  if (number < 1 || number > 1'000'000) return std::nullopt;
  return static_cast<unsigned>(number);
}

json document_of(unsigned status, std::string_view body) {
  return status == 200 ? answer::document_in(body) : json();
}

}  // namespace

std::optional<Routes> read_routes(std::string_view openapi) {
  const auto document = answer::document_in(openapi);
  const auto& paths = at(document, {"paths"});
  if (!paths.is_object()) return std::nullopt;
  return Routes{.collective_rpc = paths.contains("/collective_rpc"),
                .weight_checker = paths.contains("/weight_checker"),
                .weight_transfer = paths.contains("/start_weight_update"),
                .server_info = paths.contains("/server_info"),
                .world_size = paths.contains("/get_world_size")};
}

std::optional<ServerInfo> read_server_info(unsigned status, std::string_view body) {
  const auto document = document_of(status, body);
  const auto& config = at(document, {"vllm_config"});
  if (!config.is_object()) return std::nullopt;
  ServerInfo info;
  const auto& parallel = at(config, {"parallel_config"});
  info.tensor_parallel = count(at(parallel, {"tensor_parallel_size"})).value_or(1);
  info.pipeline_parallel = count(at(parallel, {"pipeline_parallel_size"})).value_or(1);
  info.data_parallel = count(at(parallel, {"data_parallel_size"})).value_or(1);
  info.nodes = count(at(parallel, {"nnodes"})).value_or(1);
  info.extension = text(at(parallel, {"worker_extension_cls"}));
  const auto& sleep_mode = at(config, {"model_config", "enable_sleep_mode"});
  info.sleep_mode = sleep_mode.is_boolean() && sleep_mode.get<bool>();
  info.weight_transfer = text(at(config, {"weight_transfer_config", "backend"}));
  info.quantization = text(at(config, {"model_config", "quantization"}));
  info.moe_backend = text(at(config, {"kernel_config", "moe_backend"}));
  return info;
}

std::optional<bool> read_truth(unsigned status, std::string_view body, std::string_view name) {
  const auto document = document_of(status, body);
  const auto& value = at(document, {std::string(name).c_str()});
  return value.is_boolean() ? std::optional(value.get<bool>()) : std::nullopt;
}

std::optional<unsigned> read_world_size(unsigned status, std::string_view body) {
  const auto document = document_of(status, body);
  return count(at(document, {"world_size"}));
}

std::string read_version(unsigned status, std::string_view body) {
  const auto document = document_of(status, body);
  return text(at(document, {"version"}));
}

std::string read_model(unsigned status, std::string_view body) {
  const auto document = document_of(status, body);
  const auto& models = at(document, {"data"});
  if (!models.is_array() || models.empty()) return {};
  const auto root = text(at(models.front(), {"root"}));
  return root.empty() ? text(at(models.front(), {"id"})) : root;
}

std::string read_weight_version(unsigned status, std::string_view body) {
  const auto document = document_of(status, body);
  return text(at(document, {"weight_version"}));
}

std::optional<bool> read_awake(unsigned status, std::string_view metrics) {
  if (status != 200) return std::nullopt;
  std::optional<bool> awake;
  while (!metrics.empty()) {
    const auto line = metrics.substr(0, metrics.find('\n'));
    metrics.remove_prefix(std::min(metrics.size(), line.size() + 1));
    if (!line.starts_with("vllm:engine_sleep_state{") || line.find("sleep_state=\"awake\"") == line.npos) continue;
    const auto value = line.substr(line.rfind(' ') + 1);
    awake = awake.value_or(true) && (value == "1.0" || value == "1");  // every engine of a data-parallel server
  }
  return awake;
}

}  // namespace ckptd::proto::vllm
