#include "proto/vllm/control.h"

#include <nlohmann/json.hpp>

#include "proto/answer/document.h"

namespace ckptd::proto::vllm {
namespace {

using nlohmann::json;

constexpr std::string_view kMissing =
    "it was started without VLLM_SERVER_DEV_MODE=1 in its environment, or is older than this route";
constexpr int kRankParts = 5;  // dp, pp, pcp, tp, ep

/// Where the name begins behind "dp0:pp0:pcp0:tp0:ep0:"; 0 for a key without such ranks.
std::size_t name_at(std::string_view key) {
  std::size_t at = 0;
  for (int part = 0; part < kRankParts; ++part) {
    const auto colon = key.find(':', at);
    if (colon == key.npos) return 0;
    at = colon + 1;
  }
  return at;
}

}  // namespace

std::string pause_target(std::string_view mode) { return fmt::format("/pause?mode={}&clear_cache=true", mode); }

std::string label_body(std::string_view label) {
  return json{{"new_version", label}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string checksums_body() { return R"({"action":"checksum"})"; }

Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent) {
  if (status != 200) return answer::refusal({request, sent}, status, body, kMissing);
  const auto document = answer::document_in(body);
  const auto success = document.is_object() ? document.find("success") : document.end();
  if (!document.is_object() || success == document.end() || *success != false) return {};
  return answer::nonsense({request, sent}, body, "it says that it had no success");
}

Result<bool> read_cache_reset(unsigned status, std::string_view body, answer::Key sent) {
  if (status != 200) return answer::refusal({"POST /reset_prefix_cache", sent}, status, body, kMissing);
  const auto document = answer::document_in(body);
  return !(document.is_object() && document.contains("success") && document["success"] == false);
}

Result<std::vector<RankChecksums>> read_checksums(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"POST /weight_checker", sent};
  if (status != 200) return answer::refusal(asked, status, body, kMissing);
  const auto document = answer::document_in(body);
  const auto sums = document.is_object() ? document.find("checksums") : document.end();
  if (!document.is_object() || sums == document.end() || !sums->is_object() || sums->empty())
    return answer::nonsense(asked, body, "without \"checksums\"");
  std::map<std::string, std::map<std::string, std::string>> by_rank;
  for (const auto& [key, sum] : sums->items()) {
    if (!sum.is_string()) return answer::nonsense(asked, body, "one of its checksums is no text");
    const auto at = name_at(key);
    by_rank[at == 0 ? "all" : key.substr(0, at - 1)].emplace(key.substr(at), sum.get<std::string>());
  }
  std::vector<RankChecksums> found;
  for (auto& [rank, tensors] : by_rank) found.push_back({rank, std::move(tensors)});
  return found;
}

}  // namespace ckptd::proto::vllm
