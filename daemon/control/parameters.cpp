#include "daemon/control/parameters.h"

#include <algorithm>
#include <charconv>

#include "common/http_client.h"

namespace ckptd::control {
namespace {

constexpr std::size_t kKeyCharacters = 128;
constexpr int kLongestWaitSeconds = 30;

Result<> add_pair(Parameters& parameters, std::string_view pair, std::span<const std::string_view> known) {
  auto equals = pair.find('=');
  auto name = CKPTD_TRY(http::percent_decode(pair.substr(0, equals)));
  auto value = CKPTD_TRY(http::percent_decode(equals == pair.npos ? "" : pair.substr(equals + 1)));
  if (std::ranges::find(known, name) == known.end()) {
    if (known.empty())
      return fail(ErrorKind::invalid_argument, "the query parameter '{}' is unknown; none is taken here", name);
    return fail(ErrorKind::invalid_argument, "the query parameter '{}' is unknown; known are: {}", name,
                fmt::join(known, ", "));
  }
  if (!parameters.emplace(name, value).second)
    return fail(ErrorKind::invalid_argument, "the query parameter '{}' is there twice", name);
  return {};
}

}  // namespace

Result<Parameters> parse_query(std::string_view query, std::span<const std::string_view> known) {
  Parameters parameters;
  while (!query.empty()) {
    auto end = std::min(query.find('&'), query.size());
    if (end > 0) CKPTD_TRY(add_pair(parameters, query.substr(0, end), known));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return parameters;
}

Result<bool> flag(const Parameters& parameters, std::string_view name) {
  auto found = parameters.find(name);
  if (found == parameters.end() || found->second == "false") return false;
  if (found->second == "true") return true;
  return fail(ErrorKind::invalid_argument, "the query parameter '{}' is true or false, not '{}'", name, found->second);
}

Result<std::chrono::milliseconds> wait_of(const Parameters& parameters) {
  auto found = parameters.find("wait");
  if (found == parameters.end()) return std::chrono::milliseconds(0);
  const auto& text = found->second;
  int seconds = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  bool whole = error == std::errc{} && end == text.data() + text.size();
  if (!whole || seconds < 0 || seconds > kLongestWaitSeconds)
    return fail(ErrorKind::invalid_argument, "the query parameter 'wait' is whole seconds from 0 to {}, not '{}'",
                kLongestWaitSeconds, text);
  return std::chrono::seconds(seconds);
}

namespace {

Result<std::string> word_in(const std::map<std::string, std::string>& headers, const std::string& lower_name,
                            std::string_view name) {
  auto found = headers.find(lower_name);
  if (found == headers.end()) return std::string();
  const auto& word = found->second;
  bool printable = std::ranges::all_of(word, [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
  if (word.empty() || word.size() > kKeyCharacters || !printable)
    return fail(ErrorKind::invalid_argument, "the header {} has {} bytes; it is 1 to {} printable ASCII characters",
                name, word.size(), kKeyCharacters);
  return word;
}

}  // namespace

Result<std::string> idempotency_key(const std::map<std::string, std::string>& headers) {
  return word_in(headers, "idempotency-key", "Idempotency-Key");
}

Result<std::string> last_event_id(const std::map<std::string, std::string>& headers) {
  return word_in(headers, "last-event-id", "Last-Event-ID");
}

}  // namespace ckptd::control
