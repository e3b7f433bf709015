// What inference servers have in common when they answer: their words for a failure, and what a status that is no success
// means for the one who asked. Pure. All three kinds are FastAPI applications, so what FastAPI answers by itself (404,
// 405, 422, "detail") is the same everywhere.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::proto::answer {

/// Which of an engine's keys went with a request.
enum class Key { none, api, admin };

/// A request, as far as the sentence about its answer needs it.
struct Asked {
  std::string_view request;  ///< "POST /pause"
  Key sent = Key::none;
};

/// The server's own words, cut to a length that a log can bear, in valid UTF-8: "message", "error" or "detail" of a JSON
/// object, as a text, as an object with a message or as what FastAPI complains about; else the whole body.
std::string words_of(std::string_view body);

/// The error of an answer whose status is no success. `missing` says what a route that is not there means.
///   denied       401, 403: which key is missing or rejected, as sentence and as the fact "key": missing or rejected
///   unsupported  404, 405, 501
///   peer_failed  everything else, with the server's words
std::unexpected<Error> refusal(const Asked& asked, unsigned status, std::string_view body, std::string_view missing);

/// peer_failed for a 200 whose body is not what the route answers.
std::unexpected<Error> nonsense(const Asked& asked, std::string_view body, std::string_view lacks);

}  // namespace ckptd::proto::answer
