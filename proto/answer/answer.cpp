#include "proto/answer/answer.h"

#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "proto/answer/document.h"

namespace ckptd::proto::answer {
namespace {

using nlohmann::json;

constexpr std::size_t kQuotedBytes = 2000;

std::string cut(std::string_view text) {
  auto kept = replace_invalid_utf8(text.substr(0, kQuotedBytes));
  return text.size() > kQuotedBytes ? kept + "..." : kept;
}

std::string words_in(const json& answer, std::string_view body) {
  if (answer.is_string()) return cut(answer.get_ref<const std::string&>());
  if (answer.is_object())
    for (auto name : {"message", "error", "detail"}) {
      auto member = answer.find(name);
      if (member == answer.end() || member->is_null()) continue;
      if (member->is_string()) return cut(member->get_ref<const std::string&>());
      // {"error":{"message":...}}, and LMDeploy's {"detail":{"error":{"message":...}}}.
      for (const auto* inner = &*member; inner->is_object();) {
        if (inner->contains("message") && (*inner)["message"].is_string())
          return cut((*inner)["message"].get_ref<const std::string&>());
        if (!inner->contains("error")) break;
        inner = &(*inner)["error"];
      }
      return cut(member->dump(-1, ' ', false, json::error_handler_t::replace));
    }
  return cut(body);
}

std::string about_key(const Asked& asked, unsigned status) {
  switch (asked.sent) {
    case Key::api:
      return fmt::format("the server rejects the API key that it was sent with {} ({})", asked.request, status);
    case Key::admin:
      return fmt::format("the server rejects the admin key that it was sent with {} ({})", asked.request, status);
    case Key::none:
      break;
  }
  return fmt::format(
      "the server wants a key for {} ({}), and none is configured for this engine: name the file of its --api-key as "
      "api_key_file, or of its --admin-api-key as admin_key_file (ckptctl engine add --api-key-file, --admin-key-file)",
      asked.request, status);
}

}  // namespace

std::string words_of(std::string_view body) { return words_in(document_in(body), body); }

std::unexpected<Error> refusal(const Asked& asked, unsigned status, std::string_view body, std::string_view missing) {
  auto words = words_of(body);
  if (status == 401 || status == 403)
    return std::unexpected(Error{ErrorKind::denied, about_key(asked, status)}
                               .with_vendor(std::move(words))
                               .with_fact("key", asked.sent == Key::none ? "missing" : "rejected"));
  if (status == 404 || status == 405 || status == 501)
    return std::unexpected(
        Error{ErrorKind::unsupported, fmt::format("the server has no {} ({}): {}", asked.request, status, missing)}
            .with_vendor(std::move(words)));
  auto whose = status >= 500 ? "the server failed at" : "the server refused";
  auto sentence = fmt::format("{} {} ({}): {}", whose, asked.request, status,
                              words.empty() ? "no reason given" : shown(words));
  return std::unexpected(Error{ErrorKind::peer_failed, std::move(sentence)}.with_vendor(std::move(words)));
}

std::unexpected<Error> nonsense(const Asked& asked, std::string_view body, std::string_view lacks) {
  return std::unexpected(
      Error{ErrorKind::peer_failed, fmt::format("the server answered {} with 200, but {}", asked.request, lacks)}
          .with_vendor(words_of(body)));
}

}  // namespace ckptd::proto::answer
