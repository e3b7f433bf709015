// What a vLLM server answers to the calls of a weight transfer. Pure. Each call returns when all workers have done it;
// what a worker raised comes back as the words of a 500, wrapped in what the layers between have to say.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "proto/answer/answer.h"

namespace ckptd::proto::vllm::weight_transfer {

struct Answer {
  unsigned status = 0;
  std::string_view body;
  answer::Key sent = answer::Key::none;  ///< which key went with the request
};

/// Success for a 200. Errors, with the server's words as vendor text:
///   unsupported  404, 405: not in development mode, or a vLLM without this way of giving weights; weight transfer was not
///                configured; pickled handles are refused. Each sentence says what to start the server with
///   denied       401, 403: which key is missing or rejected
///   peer_failed  everything else; for a worker without a handle the sentence says what that means
Result<> read_done(std::string_view target, Answer answer);

// What a refusal means for the one who asked.
bool knows_no_packed(Answer answer);     ///< init: this server is told that weights are packed in another way
bool knows_no_unique_id(Answer answer);  ///< init: this server's NCCL is met only through a store of torch's
bool is_already_active(Answer answer);   ///< start: an earlier update was never finished
bool has_no_session(Answer answer);      ///< finish: the failed update has ended its session by itself

/// The weight transfer of /server_info; nothing when the server does not tell.
struct Config {
  std::string backend;         ///< "ipc", "nccl"; empty: not configured
  std::optional<bool> packed;  ///< only where the command line says it
  std::optional<bool> takes_pickles;  ///< VLLM_ALLOW_INSECURE_SERIALIZATION; nothing: not told
  bool drafts_from_checkpoint = false;  ///< its draft model (MTP) has weights in the model's own checkpoint
};
std::optional<Config> read_config(Answer answer);

/// unsupported, as read_done() would say it once the model is taken apart, when the server tells that it refuses pickles.
Result<> check_takes_pickles(const Config& config);

std::optional<unsigned> read_world_size(Answer answer);  ///< of /get_world_size; nothing: not told

}  // namespace ckptd::proto::vllm::weight_transfer
