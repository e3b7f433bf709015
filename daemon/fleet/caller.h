// Asks one engine's server over HTTP, with the key that the route wants: what all kinds of engines share.
//
// A key is read from its file at each request, goes into one header of it, and is taken out of whatever the server says
// before anybody else sees that: no error and no log can hold it. Blocks as http::send() does. Holds no state; safe from
// any number of threads.
#pragma once

#include <optional>
#include <string>

#include "common/deadline.h"
#include "daemon/fleet/engine.h"
#include "proto/answer/answer.h"

namespace ckptd::fleet {

/// Who may use a route of a server that has keys.
enum class Guard {
  open,   ///< everybody: no key is sent
  api,    ///< who has the API key
  admin,  ///< who has the admin key, where there is one; else who has the API key
};

struct Answer {
  unsigned status = 0;
  std::string body;
  proto::answer::Key sent = proto::answer::Key::none;
};

class Caller {
 public:
  explicit Caller(Address address) : address_(std::move(address)) {}

  /// "engine NAME at ENDPOINT": begins every sentence about it.
  std::string who() const;
  const Address& address() const { return address_; }

  /// An HTTP status of any value is no error here. unavailable, timed_out, cancelled, denied (a key file), peer_failed
  /// (an answer that is no HTTP, or larger than `body_bytes`).
  Result<Answer> ask(http::Request request, Guard guard, Deadline deadline, std::stop_token stop = {},
                     std::uint64_t body_bytes = 1 << 20) const;
  Result<Answer> get(std::string_view target, Guard guard, Deadline deadline,
                     std::uint64_t body_bytes = 1 << 20) const;
  Result<Answer> post(std::string_view target, std::string body, Guard guard, Deadline deadline,
                      std::stop_token stop = {}, std::uint64_t body_bytes = 1 << 20) const;

  /// What was read of an answer; its error begins with who gave it.
  template <class T>
  Result<T> about(Result<T> read) const {
    if (read) return read;
    return std::unexpected(read.error().within(who()));
  }

  /// Who listens at the endpoint.
  std::optional<ProcessId> listener() const;

 private:
  const Address address_;
};

}  // namespace ckptd::fleet
