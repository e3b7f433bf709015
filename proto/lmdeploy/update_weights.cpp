#include "proto/lmdeploy/update_weights.h"

#include <nlohmann/json.hpp>

#include "common/utf8.h"
#include "proto/answer/document.h"
#include "proto/answer/members.h"

namespace ckptd::proto::lmdeploy {
namespace {

using nlohmann::json;
using answer::count_at;
using answer::text_at;
using answer::truth_at;

constexpr std::string_view kTooOld =
    "LMDeploy 0.18 has it, in its PyTorch engine (--backend pytorch) with checkpoint-engine installed beside it";

std::vector<std::string> texts_at(const json& object, const char* name) {
  std::vector<std::string> texts;
  if (const auto at = object.find(name); at != object.end() && at->is_array())
    for (const auto& one : *at)
      if (one.is_string()) texts.push_back(one.get<std::string>());
  return texts;
}

}  // namespace

std::string update_request_body(const std::map<std::string, std::string>& handles) {
  json request{{"zmq_handles", json::object()}};
  for (const auto& [uuid, endpoint] : handles) request["zmq_handles"][uuid] = endpoint;
  return request.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::string> read_update_answer(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"POST /update_weights_from_ipc", sent};
  if (status != 200) return answer::refusal(asked, status, body, kTooOld);
  const auto document = answer::document_in(body);
  if (document.is_object() && truth_at(document, "success")) return text_at(document, "message");
  if (document.is_object() && document.contains("success"))
    return answer::nonsense(asked, body, fmt::format("reports a failure: {}", shown(answer::words_of(body))));
  return answer::nonsense(asked, body, "without \"success\": true; is this endpoint an LMDeploy server?");
}

Result<Readiness> read_readiness(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"GET /update_weights_from_ipc", sent};
  if (status != 200) return answer::refusal(asked, status, body, kTooOld);
  const auto document = answer::document_in(body);
  if (!document.is_object() || !document.contains("ready"))
    return answer::nonsense(asked, body, "without \"ready\"; is this endpoint an LMDeploy server?");
  Readiness readiness;
  readiness.ready = truth_at(document, "ready");
  readiness.message = text_at(document, "message");
  readiness.backend = text_at(document, "backend");
  readiness.device = text_at(document, "device_type");
  readiness.checkpoint_engine = text_at(document, "checkpoint_engine_version");
  readiness.sleeping = truth_at(document, "is_sleeping");
  readiness.asleep = texts_at(document, "sleeping_tags");
  readiness.device_uuids = texts_at(document, "device_uuids");
  readiness.tensor_parallel = count_at(document, "tp", 0);
  readiness.data_parallel = count_at(document, "dp", 1);
  return readiness;
}

Result<Health> read_health(unsigned status, std::string_view body) {
  if (status == 503) return Health::starting;
  if (status != 200)
    return answer::refusal({"GET /health"}, status, body, "it is no LMDeploy, or an older one than is supported");
  const auto document = answer::document_in(body);
  if (!document.is_object()) return Health::unknown;
  const auto named = text_at(document, "status");
  if (named == "healthy") return Health::healthy;
  if (named == "sleeping") return Health::sleeping;
  return Health::unknown;
}

Result<bool> read_sleeping(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"GET /is_sleeping", sent};
  if (status != 200) return answer::refusal(asked, status, body, "it is no LMDeploy");
  const auto document = answer::document_in(body);
  if (!document.is_object() || !document.contains("is_sleeping"))
    return answer::nonsense(asked, body, "without \"is_sleeping\"");
  return truth_at(document, "is_sleeping");
}

Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent) {
  if (status != 200) return answer::refusal({request, sent}, status, body, kTooOld);
  return {};
}

}  // namespace ckptd::proto::lmdeploy
