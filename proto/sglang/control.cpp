#include "proto/sglang/control.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/utf8.h"
#include "proto/answer/document.h"

namespace ckptd::proto::sglang {
namespace {

using nlohmann::json;

constexpr std::string_view kTooOld = "this SGLang is older than it";

bool says_failure(const json& answer) {
  if (!answer.is_object()) return false;
  auto success = answer.find("success");
  return success != answer.end() && success->is_boolean() && !success->get<bool>();
}

/// The target's entry comes first; draft models of the same rank follow. Older servers have one object instead.
std::string rank_name(const json& rank, std::size_t index) {
  auto info = rank.find("parallelism_info");
  const json* first = nullptr;
  if (info != rank.end()) first = info->is_array() && !info->empty() ? &info->front() : &*info;
  if (first == nullptr || !first->is_object()) return fmt::format("rank{}", index);
  std::string name;
  for (std::string_view axis : {"tp", "pp", "dp"}) {
    const auto number = first->find(fmt::format("{}_rank", axis));
    const auto size = first->find(fmt::format("{}_size", axis));
    if (number == first->end() || !number->is_number_integer()) continue;
    const bool alone = size != first->end() && size->is_number_integer() && size->get<std::int64_t>() <= 1;
    if (alone && axis != "tp") continue;
    name += fmt::format("{}{}{}", name.empty() ? "" : " ", axis, number->get<std::int64_t>());
  }
  return name.empty() ? fmt::format("rank{}", index) : name;
}

}  // namespace

std::string pause_body(std::string_view mode) { return json{{"mode", mode}}.dump(); }

std::string continue_body() { return "{}"; }


std::string values_body(std::string_view tensor, std::size_t count) {
  return json{{"name", tensor}, {"truncate_size", count}}.dump();
}

std::string checksums_body() { return R"({"action":"checksum"})"; }

Result<> read_done(std::string_view request, unsigned status, std::string_view body, answer::Key sent) {
  if (status != 200) return answer::refusal({request, sent}, status, body, kTooOld);
  if (!says_failure(answer::document_in(body))) return {};
  auto words = answer::words_of(body);
  return std::unexpected(
      Error{ErrorKind::peer_failed,
            fmt::format("the server answered {} with 200 but reports a failure: {}", request, shown(words))}
          .with_vendor(std::move(words)));
}

Result<std::vector<RankChecksums>> read_checksums(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"POST /weights_checker", sent};
  CKPTD_TRY(read_done(asked.request, status, body, sent));
  const auto document = answer::document_in(body);
  const auto ranks = document.is_object() ? document.find("ranks") : document.end();
  if (!document.is_object() || ranks == document.end() || !ranks->is_array() || ranks->empty())
    return answer::nonsense(asked, body, "without \"ranks\": this SGLang cannot tell checksums");
  std::vector<RankChecksums> found;
  for (const auto& rank : *ranks) {
    const auto sums = rank.is_object() ? rank.find("checksums") : rank.end();
    if (!rank.is_object() || sums == rank.end() || !sums->is_object())
      return answer::nonsense(asked, body, "one of its ranks has no \"checksums\"");
    RankChecksums one{.rank = rank_name(rank, found.size()), .by_tensor = {}};
    for (const auto& [name, sum] : sums->items()) {
      if (!sum.is_string()) return answer::nonsense(asked, body, "one of its checksums is no text");
      one.by_tensor.emplace(name, sum.get<std::string>());
    }
    found.push_back(std::move(one));
  }
  return found;
}

namespace {

std::optional<std::vector<double>> values_in(const json& list) {
  std::vector<double> values;
  for (const auto& value : list) {
    if (!value.is_number() && !value.is_null()) return std::nullopt;
    values.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return values;
}

}  // namespace

Result<std::vector<std::vector<double>>> read_values(unsigned status, std::string_view body, answer::Key sent) {
  const answer::Asked asked{"POST /get_weights_by_name", sent};
  if (status == 400)
    return std::unexpected(Error{ErrorKind::unsupported, "it tells no values of this model's weights"}.with_vendor(
        answer::words_of(body)));
  CKPTD_TRY(read_done(asked.request, status, body, sent));
  const auto document = answer::document_in(body);
  if (!document.is_array() || document.empty()) return answer::nonsense(asked, body, "not with a list of numbers");
  const bool several = std::ranges::all_of(document, [](const json& each) { return each.is_array(); });
  std::vector<std::vector<double>> told;
  for (std::size_t i = 0; i < (several ? document.size() : 1); ++i) {
    auto values = values_in(several ? document[i] : document);
    if (!values || values->empty()) return answer::nonsense(asked, body, "not with a list of numbers");
    told.push_back(*std::move(values));
  }
  return told;
}

}  // namespace ckptd::proto::sglang
