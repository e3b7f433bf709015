#include "proto/sglang/update_weights.h"

#include <nlohmann/json.hpp>

#include "common/utf8.h"

namespace ckptd::proto::sglang {
namespace {

using nlohmann::json;

constexpr std::size_t kQuotedBytes = 2000;
constexpr std::string_view kInstance = "MIG-";

std::string dumped(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string cut(std::string_view text) {
  auto kept = replace_invalid_utf8(text.substr(0, kQuotedBytes));
  return text.size() > kQuotedBytes ? kept + "..." : kept;
}

/// The route answers with "message", SGLang's error handlers with "message" or "error" (a text or an object with a
/// message), FastAPI's with "detail" (a text or a list of complaints).
std::string words_of(const json& answer, std::string_view body) {
  if (answer.is_object())
    for (auto name : {"message", "error", "detail"}) {
      auto member = answer.find(name);
      if (member == answer.end()) continue;
      if (member->is_string()) return cut(member->get_ref<const std::string&>());
      if (member->is_object() && member->contains("message") && (*member)["message"].is_string())
        return cut((*member)["message"].get_ref<const std::string&>());
      if (!member->is_null()) return cut(dumped(*member));
    }
  return cut(body);
}

std::unexpected<Error> refusal(ErrorKind kind, std::string sentence, std::string words) {
  return std::unexpected(Error{kind, std::move(sentence)}.with_vendor(std::move(words)));
}

bool says_success(const json& answer) {
  if (!answer.is_object()) return false;
  auto success = answer.find("success");
  return success != answer.end() && success->is_boolean() && success->get<bool>();
}

Result<std::string> read_ok(const json& answer, std::string words) {
  if (says_success(answer)) return answer.contains("message") ? words : std::string();
  if (answer.is_object() && answer.contains("success"))
    return refusal(ErrorKind::peer_failed, fmt::format("the server answered 200 but reports a failure: {}", shown(words)),
                   words);
  return refusal(ErrorKind::peer_failed,
                 "the server answered 200 without \"success\": true, so nobody knows whether it has the weights; "
                 "is this endpoint an SGLang server?",
                 std::move(words));
}

}  // namespace

std::string update_request_body(const std::map<std::string, std::string>& handles, std::string_view weight_version,
                                bool flush_cache) {
  json request{{"zmq_handles", json::object()}, {"flush_cache", flush_cache}};
  for (const auto& [uuid, endpoint] : handles) {
    request["zmq_handles"][uuid] = endpoint;
    if (uuid.starts_with(kInstance)) request["zmq_handles"]["GPU-" + uuid.substr(kInstance.size())] = endpoint;
  }
  if (!weight_version.empty()) request["weight_version"] = weight_version;
  return dumped(request);
}

Result<std::string> read_update_answer(unsigned status, std::string_view body) {
  auto answer = json::parse(body, nullptr, false);
  auto words = words_of(answer, body);
  switch (status) {
    case 200:
      return read_ok(answer, std::move(words));
    case 401:
      return refusal(
          ErrorKind::denied,
          "the server wants a key (401); it was started with --api-key or --admin-api-key, and ckptd sends none",
          std::move(words));
    case 403:
      return refusal(ErrorKind::denied, "the server forbids this request (403); its admin key guards it",
                     std::move(words));
    case 404:
    case 405:
      return refusal(ErrorKind::unsupported,
                     fmt::format("the server has no POST {} ({}): it is no SGLang, or one that was built without "
                                 "checkpoint-engine support",
                                 kUpdateTarget, status),
                     std::move(words));
    default:
      break;
  }
  auto whose = status >= 500 ? "the server failed" : "the server refused the update";
  return refusal(ErrorKind::peer_failed,
                 fmt::format("{} ({}): {}", whose, status, words.empty() ? "no reason given" : shown(words)), words);
}

}  // namespace ckptd::proto::sglang
