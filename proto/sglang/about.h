// What an SGLang server tells of itself: GET /model_info and GET /server_info (older servers: /get_model_info and
// /get_server_info), GET /openapi.json. Pure.
//
// Members that a server does not have, or has with another type, count as not told: the servers of a year differ in
// dozens of them, and none is needed to be given weights.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::sglang {

inline constexpr std::string_view kReadyTarget = "/ready";
inline constexpr std::string_view kModelTarget = "/model_info", kOldModelTarget = "/get_model_info";
inline constexpr std::string_view kServerTarget = "/server_info", kOldServerTarget = "/get_server_info";
inline constexpr std::string_view kRoutesTarget = "/openapi.json";

/// "weight_version", or empty when it is not told.
Result<std::string> read_weight_version(unsigned status, std::string_view body, answer::Key sent);

struct ServerInfo {
  std::string version, model;
  unsigned tensor_parallel = 1, pipeline_parallel = 1, data_parallel = 1, nodes = 1;
  bool data_parallel_attention = false;
  std::string speculative;          ///< the algorithm, upper case; empty: none
  unsigned draft_models = 0;        ///< each loads weights of its own, in a session of its own
  bool memory_saver = false;
  std::string weight_cache_mode;    ///< empty: not told
  bool waits_for_weights = false;   ///< --checkpoint-engine-wait-weights-before-ready
  std::string load_format;
  std::string quantization;         ///< --quantization; empty: none was given, whatever the checkpoint has
};

Result<ServerInfo> read_server_info(unsigned status, std::string_view body, answer::Key sent);

/// Whether the OpenAPI document names the route; false for what is no such document.
bool offers_route(std::string_view openapi, std::string_view route);

}  // namespace ckptd::proto::sglang
