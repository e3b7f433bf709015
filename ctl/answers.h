// What came back from the socket, judged: a good answer becomes a value, everything else an Error that says what to do.
// Nothing here talks to anybody, except explain_no_answer(), which looks at the socket's file.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/http_client.h"
#include "common/result.h"
#include "ctl/client.h"

namespace ckptd::ctl {

/// Worth waiting for: a daemon that is gone, or that has no room for us right now.
bool may_come_back(const Error& error);

/// Turns "no answer on this socket" into what an operator should check.
Error explain_no_answer(Error cause, const std::string& socket_path);

/// The JSON of a success, {} for one without a body; the daemon's error otherwise. `what` is "GET /v1/jobs".
Result<nlohmann::json> read_answer(const http::Response& response, std::string_view what);

/// {"bytes":N}; a daemon that tells no number freed an unknown amount, shown as 0.
Result<proto::control::Trimmed> parse_trimmed(const nlohmann::json& answer);

/// The same error, as that of an answer: the daemon and we do not understand each other.
Error not_understood(Error error);

template <class T>
Result<Answer<T>> typed(nlohmann::json answer, Result<T> (*parse)(const nlohmann::json&)) {
  auto value = parse(answer);
  if (!value) return std::unexpected(not_understood(std::move(value).error()));
  return Answer<T>{std::move(answer), *std::move(value)};
}

/// {"<member>":[...]}. A bare array is taken as well and wrapped, so that the JSON is an object in any case.
template <class T>
Result<Answer<std::vector<T>>> typed_list(nlohmann::json answer, const char* member,
                                          Result<T> (*parse)(const nlohmann::json&)) {
  if (answer.is_array()) answer = nlohmann::json{{member, std::move(answer)}};
  if (!answer.is_object() || !answer.contains(member) || !answer[member].is_array())
    return std::unexpected(
        not_understood({ErrorKind::corrupt, fmt::format("it holds no list of the name '{}'", member)}));
  std::vector<T> values;
  for (const auto& element : answer[member]) {
    auto value = parse(element);
    if (!value) return std::unexpected(not_understood(std::move(value).error()));
    values.push_back(*std::move(value));
  }
  return Answer<std::vector<T>>{std::move(answer), std::move(values)};
}

}  // namespace ckptd::ctl
