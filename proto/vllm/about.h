// What a vLLM server tells of itself: GET /openapi.json says which routes there are, and with that whether it is in
// development mode; GET /server_info?config_format=json (development mode) how it was started. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::vllm {

inline constexpr std::string_view kHealthTarget = "/health", kVersionTarget = "/version", kModelsTarget = "/v1/models";
inline constexpr std::string_view kRoutesTarget = "/openapi.json";
inline constexpr std::string_view kServerTarget = "/server_info?config_format=json";
inline constexpr std::string_view kWorldTarget = "/get_world_size";
inline constexpr std::string_view kSleepingTarget = "/is_sleeping", kPausedTarget = "/is_paused";
inline constexpr std::string_view kWeightInfoTarget = "/weight_info", kMetricsTarget = "/metrics";

/// The routes that matter here.
/// `weight_transfer` is the way of vLLM 0.22 and later; what came before it cannot be given weights in parts.
struct Routes {
  bool collective_rpc = false, weight_checker = false, weight_transfer = false, server_info = false,
       world_size = false;
};
/// Nothing for what is no OpenAPI document.
std::optional<Routes> read_routes(std::string_view openapi);

struct ServerInfo {
  unsigned tensor_parallel = 1, pipeline_parallel = 1, data_parallel = 1, nodes = 1;
  bool sleep_mode = false;
  std::string weight_transfer;  ///< backend of --weight-transfer-config, or empty
  std::string extension;        ///< --worker-extension-cls, or empty
  std::string quantization;     ///< of its model, or empty
  std::string moe_backend;      ///< --moe-backend, "auto" by default; empty: not told
};
/// Nothing when the server does not tell (an older one answers with one text for all of its configuration).
std::optional<ServerInfo> read_server_info(unsigned status, std::string_view body);

/// {"NAME":true}; nothing for anything else, a missing route included.
std::optional<bool> read_truth(unsigned status, std::string_view body, std::string_view name);
std::optional<unsigned> read_world_size(unsigned status, std::string_view body);
std::string read_version(unsigned status, std::string_view body);         ///< {"version":..}; empty: not told
std::string read_model(unsigned status, std::string_view body);           ///< of /v1/models; empty: not told
std::string read_weight_version(unsigned status, std::string_view body);  ///< {"weight_version":..}; empty: not told

/// Whether the metrics say that no memory is released. A paused server and a sleeping one both say yes to /is_sleeping
/// and /is_paused (the scheduler of either holds requests back); this gauge tells them apart. Nothing: not told.
std::optional<bool> read_awake(unsigned status, std::string_view metrics);

}  // namespace ckptd::proto::vllm
