#include "proto/vllm/weight_transfer/answers.h"

#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "proto/answer/document.h"
#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::proto::vllm::weight_transfer {
namespace {

using nlohmann::json;

constexpr std::string_view kStart =
    "start vLLM with VLLM_SERVER_DEV_MODE=1 and VLLM_ALLOW_INSECURE_SERIALIZATION=1 in its environment and "
    "--weight-transfer-config '{\"backend\":\"ipc\"}'";

bool has(std::string_view words, std::string_view what) { return words.find(what) != words.npos; }

std::unexpected<Error> refusal(ErrorKind kind, std::string sentence, std::string words) {
  return std::unexpected(Error{kind, std::move(sentence)}.with_vendor(std::move(words)));
}

std::unexpected<Error> refuses_pickles(std::string words) {
  return refusal(ErrorKind::unsupported,
                 "the server refuses handles that come over HTTP: start vLLM with VLLM_ALLOW_INSECURE_SERIALIZATION=1 in "
                 "its environment, and let nobody but ckptd reach its port",
                 std::move(words));
}

/// As a switch of the environment is told: true, 1 or "1".
std::optional<bool> truth(const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value != 0;
  if (value.is_string()) return value == "1" || value == "True" || value == "true";
  return std::nullopt;
}

std::optional<unsigned> count(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  return number < 1 || number > 1'000'000 ? std::nullopt : std::optional(static_cast<unsigned>(number));
}

json object_of(Answer answer) {
  if (answer.status != 200) return json::object();
  auto document = answer::document_in(answer.body);
  if (!document.is_object()) return json::object();
  return document;
}

}  // namespace

Result<> read_done(std::string_view target, Answer answer) {
  if (answer.status == 200) return {};
  const auto request = fmt::format("POST {}", target);
  auto words = answer::words_of(answer.body);
  if (has(words, "VLLM_ALLOW_INSECURE_SERIALIZATION")) return refuses_pickles(std::move(words));
  if (has(words, "Weight transfer not configured"))
    return refusal(ErrorKind::unsupported,
                   fmt::format("the server was started without weight transfer: {}", kStart), std::move(words));
  if (has(words, "IPC handle not found"))
    return refusal(ErrorKind::peer_failed,
                   fmt::format("a worker runs on a GPU that this update has no memory on: give the engine the devices of "
                               "all its workers; vLLM said: {}",
                               shown(words)),
                   words);
  return answer::refusal({request, answer.sent}, answer.status, answer.body,
                         fmt::format("it is not in development mode, or its vLLM is older than 0.22, which gave weights in "
                                     "another order of calls: {}; for an older one set transfer to checkpoint-engine",
                                     kStart));
}

bool knows_no_packed(Answer answer) {
  const auto words = answer::words_of(answer.body);
  return answer.status != 200 && has(words, "packed") && (has(words, "unexpected keyword") || has(words, "init_info"));
}

bool knows_no_unique_id(Answer answer) {
  const auto words = answer::words_of(answer.body);
  return answer.status != 200 && has(words, "nccl_unique_id_b64") && has(words, "unexpected keyword");
}

bool is_already_active(Answer answer) {
  const auto words = answer::words_of(answer.body);
  return answer.status != 200 && (has(words, "already active") || has(words, "already in progress"));
}

bool has_no_session(Answer answer) {
  const auto words = answer::words_of(answer.body);
  return answer.status != 200 && has(words, "without a matching");
}

std::optional<Config> read_config(Answer answer) {
  const auto document = object_of(answer);
  const auto config = document.find("vllm_config");
  if (config == document.end() || !config->is_object()) return std::nullopt;
  Config found;
  const json nothing;
  const auto member = [&nothing](const json& object, const char* name) -> const json& {
    if (!object.is_object()) return nothing;
    const auto at = object.find(name);
    return at != object.end() ? *at : nothing;
  };
  const auto& transfer = member(*config, "weight_transfer_config");
  if (const auto& backend = member(transfer, "backend"); backend.is_string()) found.backend = backend.get<std::string>();
  if (const auto& packed = member(transfer, "packed"); packed.is_boolean()) found.packed = packed.get<bool>();
  found.takes_pickles = truth(member(member(document, "vllm_env"), "VLLM_ALLOW_INSECURE_SERIALIZATION"));
  const auto& method = member(member(*config, "speculative_config"), "method");
  found.drafts_from_checkpoint = method.is_string() && method.get<std::string>().find("mtp") != std::string::npos;
  return found;
}

Result<> check_takes_pickles(const Config& config) {
  if (config.takes_pickles.value_or(true)) return {};
  return refuses_pickles({});
}

std::optional<unsigned> read_world_size(Answer answer) {
  const auto document = object_of(answer);
  const auto size = document.find("world_size");
  return size == document.end() ? std::nullopt : count(*size);
}

}  // namespace ckptd::proto::vllm::weight_transfer
