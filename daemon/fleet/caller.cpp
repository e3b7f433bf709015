#include "daemon/fleet/caller.h"

#include <algorithm>

#include "common/listener.h"
#include "daemon/fleet/key_file.h"

namespace ckptd::fleet {
namespace {

using proto::answer::Key;

struct Credential {
  Key which = Key::none;
  std::string key;
};

Result<Credential> credential_for(Guard guard, const Address& address) {
  if (guard == Guard::admin && !address.admin_key_file.empty())
    return Credential{Key::admin, CKPTD_TRY(read_key_file("admin key", address.admin_key_file))};
  if (guard != Guard::open && !address.api_key_file.empty())
    return Credential{Key::api, CKPTD_TRY(read_key_file("API key", address.api_key_file))};
  return Credential{};
}

/// A server may repeat what it was sent; whoever reads its words next may write them down. A key so short that it could
/// be a word of a good answer is left in those, which nobody quotes.
void take_out(const std::string& key, unsigned status, std::string& text) {
  constexpr std::size_t kNoWord = 8;
  if (key.empty() || (status == 200 && key.size() < kNoWord)) return;
  constexpr std::string_view kInstead = "[key]";
  for (auto at = text.find(key); at != text.npos; at = text.find(key, at + kInstead.size()))
    text.replace(at, key.size(), kInstead);
}

std::chrono::milliseconds left(Deadline deadline) {
  const auto span = std::chrono::ceil<std::chrono::milliseconds>(deadline.at() - Clock::now());
  return std::max(span, std::chrono::milliseconds(1));
}

}  // namespace

std::string Caller::who() const { return fmt::format("engine {} at {}", address_.name, address_.endpoint.show()); }

Result<Answer> Caller::ask(http::Request request, Guard guard, Deadline deadline, std::stop_token stop,
                           std::uint64_t body_bytes) const {
  auto credential = credential_for(guard, address_);
  if (!credential) return std::unexpected(credential.error().within(who()).with_fact("key", "unreadable"));
  if (credential->which != Key::none)
    request.headers.emplace_back("Authorization", "Bearer " + credential->key);
  const auto time = left(deadline);
  const http::Limits limits{.connect = std::min(address_.connect, time), .response = time, .body_bytes = body_bytes};
  auto response = http::send(address_.endpoint, request, limits, std::move(stop));
  if (!response) {
    auto error = std::move(response).error().within(fmt::format("engine {}", address_.name));
    // What engine.h promises: an engine that cannot be reached is unavailable, one that answers nonsense has failed.
    if (error.kind == ErrorKind::io || error.kind == ErrorKind::denied) error.kind = ErrorKind::unavailable;
    if (error.kind == ErrorKind::corrupt) error.kind = ErrorKind::peer_failed;
    return std::unexpected(std::move(error));
  }
  take_out(credential->key, response->status, response->body);
  return Answer{response->status, std::move(response->body), credential->which};
}

Result<Answer> Caller::get(std::string_view target, Guard guard, Deadline deadline, std::uint64_t body_bytes) const {
  return ask({.target = std::string(target)}, guard, deadline, {}, body_bytes);
}

Result<Answer> Caller::post(std::string_view target, std::string body, Guard guard, Deadline deadline,
                            std::stop_token stop, std::uint64_t body_bytes) const {
  return ask({.method = "POST", .target = std::string(target), .body = std::move(body)}, guard, deadline,
             std::move(stop), body_bytes);
}

std::optional<ProcessId> Caller::listener() const {
  const auto& endpoint = address_.endpoint;
  if (!endpoint.unix_path.empty()) return listener_on_unix(endpoint.unix_path);
  return listener_on_tcp(endpoint.host, endpoint.port);
}

}  // namespace ckptd::fleet
