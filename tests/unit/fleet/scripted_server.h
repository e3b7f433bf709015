// A server that answers each route as a test has it, and remembers what it was asked and with which key. A route that the
// test does not name is 404, as of FastAPI.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/unit/http_client/raw_peer.h"

namespace ckptd::testing {

struct Reply {
  int status = 200;
  std::string body = "{}";
};

struct Seen {
  std::string request;  ///< "POST /pause?mode=abort"
  std::string body;
  std::string authorization;  ///< the header's value, or empty
};

class ScriptedServer {
 public:
  /// `routes` by "METHOD /path?query"; the replies to one route are given one after the other, the last one for ever.
  explicit ScriptedServer(std::map<std::string, std::vector<Reply>> routes)
      : routes_(std::move(routes)), peer_(RawPeer::on_tcp([this](int fd) { serve(fd); })) {}

  const http::Endpoint& endpoint() const { return peer_.endpoint(); }

  std::vector<Seen> seen() const {
    std::lock_guard lock(mutex_);
    return seen_;
  }
  std::vector<std::string> requests() const {
    std::vector<std::string> all;
    for (const auto& one : seen()) all.push_back(one.request);
    return all;
  }
  std::string body_of(const std::string& request) const {
    for (const auto& one : seen())
      if (one.request == request) return one.body;
    return "(not asked)";
  }

  /// Keys that the server accepts: for routes of `admin` the second, if it is not empty, for others the first.
  void guard_with(std::string api, std::string admin, std::vector<std::string> admin_routes) {
    std::lock_guard lock(mutex_);
    api_ = std::move(api);
    admin_ = std::move(admin);
    admin_routes_ = std::move(admin_routes);
  }

 private:
  Reply reply_to(const Seen& seen) {
    std::lock_guard lock(mutex_);
    seen_.push_back(seen);
    const bool is_admin = std::ranges::any_of(
        admin_routes_, [&](const auto& route) { return seen.request.find(route) != std::string::npos; });
    const auto& wanted = is_admin && !admin_.empty() ? admin_ : api_;
    if (!wanted.empty() && seen.authorization != "Bearer " + wanted)
      return {401, R"({"error":"Unauthorized","sent":")" + seen.authorization + R"("})"};
    auto at = routes_.find(seen.request);
    if (at == routes_.end()) return {404, R"({"detail":"Not Found"})"};
    auto reply = at->second.front();
    if (at->second.size() > 1) at->second.erase(at->second.begin());
    return reply;
  }

  void serve(int fd) {
    const auto text = read_request(fd);
    Seen seen;
    seen.request = text.substr(0, text.find(" HTTP/1.1"));
    const auto end = text.find("\r\n\r\n");
    if (end != text.npos) seen.body = text.substr(end + 4);
    constexpr std::string_view kHeader = "Authorization: ";
    if (const auto at = text.find(kHeader); at != text.npos)
      seen.authorization = text.substr(at + kHeader.size(), text.find("\r\n", at) - at - kHeader.size());
    const auto reply = reply_to(seen);
    write_all(fd, answer(std::to_string(reply.status) + " X", reply.body));
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::vector<Reply>> routes_;
  std::string api_, admin_;
  std::vector<std::string> admin_routes_;
  std::vector<Seen> seen_;
  RawPeer peer_;  ///< last: its thread uses the others
};

}  // namespace ckptd::testing
