#include "proto/sglang/update_weights.h"

#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "proto/answer/document.h"

namespace ckptd::proto::sglang {
namespace {

using nlohmann::json;

constexpr std::string_view kInstance = "MIG-";

std::unexpected<Error> failure(std::string sentence, std::string words) {
  return std::unexpected(Error{ErrorKind::peer_failed, std::move(sentence)}.with_vendor(std::move(words)));
}

bool says_success(const json& answer) {
  if (!answer.is_object()) return false;
  auto success = answer.find("success");
  return success != answer.end() && success->is_boolean() && success->get<bool>();
}

}  // namespace

std::map<std::string, std::string> handles_as_asked_for(const std::map<std::string, std::string>& handles) {
  auto asked_for = handles;
  for (const auto& [uuid, endpoint] : handles)
    if (uuid.starts_with(kInstance)) asked_for["GPU-" + uuid.substr(kInstance.size())] = endpoint;
  return asked_for;
}

std::string update_request_body(const std::map<std::string, std::string>& handles, std::string_view weight_version,
                                bool flush_cache) {
  json request{{"zmq_handles", handles_as_asked_for(handles)}, {"flush_cache", flush_cache}};
  if (!weight_version.empty()) request["weight_version"] = weight_version;
  return request.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::string> read_update_answer(unsigned status, std::string_view body, answer::Key sent) {
  if (status != 200)
    return answer::refusal({"POST /update_weights_from_ipc", sent}, status, body,
                           "it is no SGLang, or one that was built without checkpoint-engine support");
  const auto answer = answer::document_in(body);
  auto words = answer::words_of(body);
  if (says_success(answer)) return answer.contains("message") ? words : std::string();
  if (answer.is_object() && answer.contains("success"))
    return failure(fmt::format("the server answered 200 but reports a failure: {}", shown(words)), words);
  return failure(
      "the server answered 200 without \"success\": true, so nobody knows whether it has the weights; is this endpoint "
      "an SGLang server?",
      std::move(words));
}

}  // namespace ckptd::proto::sglang
