#include "proto/vllm/weight_transfer/answers.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "proto/vllm/weight_transfer/requests.h"

namespace ckptd::proto::vllm::weight_transfer {
namespace {

using nlohmann::json;

constexpr std::size_t kWordsLimitBytes = 16 * 1024;
constexpr std::string_view kStart =
    "start vLLM with VLLM_SERVER_DEV_MODE=1 and VLLM_ALLOW_INSECURE_SERIALIZATION=1 in its environment and "
    "--weight-transfer-config '{\"backend\":\"ipc\"}'";

bool has(std::string_view words, std::string_view what) { return words.find(what) != words.npos; }

std::unexpected<Error> refusal(ErrorKind kind, std::string sentence, std::string words) {
  return std::unexpected(Error{kind, std::move(sentence)}.with_vendor(std::move(words)));
}

std::optional<unsigned> count(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  return number < 1 || number > 1'000'000 ? std::nullopt : std::optional(static_cast<unsigned>(number));
}

json object_of(Answer answer) {
  if (answer.status != 200) return json::object();
  auto document = json::parse(answer.body, nullptr, false);
  return document.is_object() ? document : json::object();
}

}  // namespace

std::string words_of(std::string_view body) {
  const auto document = json::parse(body, nullptr, false);
  const json* value = &document;
  for (bool deeper = true; deeper && value->is_object();) {
    deeper = false;
    for (const auto* name : {"message", "error", "detail"})
      if (const auto at = value->find(name); at != value->end() && !at->is_null()) {
        value = &*at;
        deeper = true;
        break;
      }
  }
  const auto words = value->is_string() ? value->get<std::string>() : std::string(body);
  return replace_invalid_utf8(words.substr(0, kWordsLimitBytes));
}

Result<> read_done(std::string_view target, Answer answer) {
  if (answer.status == 200) return {};
  auto words = words_of(answer.body);
  const auto reason = words.empty() ? std::string("no reason given") : words;
  if (answer.status == 401 || answer.status == 403)
    return refusal(ErrorKind::denied,
                   fmt::format("the server refused POST {} ({}): it, or what stands before it, wants a key", target,
                               answer.status),
                   std::move(words));
  if (answer.status == 404 || answer.status == 405)
    return refusal(ErrorKind::unsupported,
                   fmt::format("the server has no POST {} ({}): it is not in development mode, or its vLLM is older than "
                               "0.22, which gave weights in another order of calls: {}; for an older one set transfer to "
                               "checkpoint-engine",
                               target, answer.status, kStart),
                   std::move(words));
  if (has(words, "VLLM_ALLOW_INSECURE_SERIALIZATION"))
    return refusal(ErrorKind::unsupported,
                   "the server refuses handles that come over HTTP: start vLLM with VLLM_ALLOW_INSECURE_SERIALIZATION=1 "
                   "in its environment, and let nobody but ckptd reach its port",
                   std::move(words));
  if (has(words, "Weight transfer not configured"))
    return refusal(ErrorKind::unsupported,
                   fmt::format("the server was started without weight transfer: {}", kStart), std::move(words));
  if (has(words, "IPC handle not found"))
    return refusal(ErrorKind::peer_failed,
                   fmt::format("a worker runs on a GPU that this update has no memory on: give the engine the devices of "
                               "all its workers; vLLM said: {}",
                               reason),
                   std::move(words));
  return refusal(ErrorKind::peer_failed,
                 fmt::format("{} POST {} ({}): {}", answer.status >= 500 ? "the server failed in" : "the server refused",
                             target, answer.status, reason),
                 words);
}

bool knows_no_packed(Answer answer) {
  const auto words = words_of(answer.body);
  return answer.status != 200 && has(words, "packed") && (has(words, "unexpected keyword") || has(words, "init_info"));
}

bool is_already_active(Answer answer) {
  const auto words = words_of(answer.body);
  return answer.status != 200 && (has(words, "already active") || has(words, "already in progress"));
}

bool has_no_session(Answer answer) {
  const auto words = words_of(answer.body);
  return answer.status != 200 && has(words, "without a matching");
}

std::optional<Config> read_config(Answer answer) {
  const auto document = object_of(answer);
  const auto config = document.find("vllm_config");
  if (config == document.end() || !config->is_object()) return std::nullopt;
  Config found;
  const auto transfer = config->find("weight_transfer_config");
  if (transfer == config->end() || !transfer->is_object()) return found;
  if (const auto backend = transfer->find("backend"); backend != transfer->end() && backend->is_string())
    found.backend = backend->get<std::string>();
  if (const auto packed = transfer->find("packed"); packed != transfer->end() && packed->is_boolean())
    found.packed = packed->get<bool>();
  return found;
}

std::optional<unsigned> read_world_size(Answer answer) {
  const auto document = object_of(answer);
  const auto size = document.find("world_size");
  return size == document.end() ? std::nullopt : count(*size);
}

}  // namespace ckptd::proto::vllm::weight_transfer
