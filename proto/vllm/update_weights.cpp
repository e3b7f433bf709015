#include "proto/vllm/update_weights.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "proto/answer/document.h"

namespace ckptd::proto::vllm {
namespace {

using nlohmann::json;

constexpr std::string_view kMethod = "update_weights_from_ipc";

/// "Method 'update_weights_from_ipc' is not implemented.", or Python's own words for a missing attribute; either may be
/// wrapped in what the engine core says of a failed call.
bool lacks_extension(std::string_view words) {
  if (words.find(kMethod) == words.npos) return false;
  return words.find("is not implemented") != words.npos || words.find("has no attribute") != words.npos;
}

}  // namespace

std::string update_request_body(const std::map<std::string, std::string>& handles, std::chrono::milliseconds timeout) {
  json endpoints = json::object();
  for (const auto& [uuid, endpoint] : handles) endpoints[uuid] = endpoint;
  const json request{{"method", kMethod},
                     {"args", json::array({std::move(endpoints)})},
                     {"kwargs", json::object()},
                     {"timeout", std::chrono::duration<double>(timeout).count()}};
  return request.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::string> read_update_answer(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"POST /collective_rpc", sent};
  if (status != 200) {
    auto words = answer::words_of(body);
    if (status >= 500 && status != 501 && lacks_extension(words))
      return std::unexpected(
          Error{ErrorKind::unsupported,
                fmt::format("its workers have no update_weights_from_ipc: start vLLM with --worker-extension-cls {} and "
                            "checkpoint-engine installed beside it",
                            kExtension)}
              .with_vendor(std::move(words)));
    return answer::refusal(asked, status, body,
                           "start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment and "
                           "--worker-extension-cls checkpoint_engine.worker.VllmColocateWorkerExtension");
  }
  if (body.empty()) return "the workers returned nothing";
  const auto answer = answer::document_in(body);
  const auto results = answer.is_object() ? answer.find("results") : answer.end();
  if (!answer.is_object() || results == answer.end() || !results->is_array())
    return answer::nonsense(asked, body, "without \"results\"; is this endpoint a vLLM server?");
  if (results->empty()) return answer::nonsense(asked, body, "no worker was asked");
  for (std::size_t i = 0; i < results->size(); ++i)
    if (!(*results)[i].is_null())
      return answer::nonsense(asked, body,
                              fmt::format("worker {} returned something, where checkpoint-engine's extension returns "
                                          "nothing; is it another extension?",
                                          i));
  return fmt::format("{} worker(s) returned", results->size());
}

}  // namespace ckptd::proto::vllm
