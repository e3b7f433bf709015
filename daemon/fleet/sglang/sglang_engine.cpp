#include "daemon/fleet/sglang/sglang_engine.h"

#include <algorithm>

#include "proto/sglang/update_weights.h"

namespace ckptd::fleet::sglang {
namespace {

namespace wire = proto::sglang;

constexpr std::uint64_t kAnswerBytes = 1 << 20;

class SglangEngine final : public Engine {
 public:
  SglangEngine(std::string name, http::Endpoint endpoint, std::chrono::milliseconds connect)
      : name_(std::move(name)), endpoint_(std::move(endpoint)), connect_(connect) {}

  Result<std::string> call_update(const UpdateCall& call, std::chrono::milliseconds timeout,
                                  std::stop_token stop) override {
    http::Request request{.method = "POST",
                          .target = std::string(wire::kUpdateTarget),
                          .body = wire::update_request_body(call.endpoints, call.weight_version, call.flush_cache)};
    auto response = exchange(request, timeout, std::move(stop));
    if (!response) return std::unexpected(std::move(response).error());
    auto answer = wire::read_update_answer(response->status, response->body);
    if (!answer) return std::unexpected(answer.error().within(who()));
    return answer;
  }

  Result<Observation> observe(std::chrono::milliseconds timeout) override {
    auto response = exchange({.target = std::string(wire::kPingTarget)}, timeout, {});
    if (!response) return std::unexpected(std::move(response).error());
    // A server with a key answers 401 here and is alive all the same; the update itself says what it lacks.
    bool alive = response->status == 200 || response->status == 401 || response->status == 403;
    if (alive) return Observation{.state = Observation::State::serving, .weight_version = {}, .listener = {}};
    return fail(ErrorKind::unavailable, "{}: GET {} was answered with {}; is this an SGLang server?", who(),
                wire::kPingTarget, response->status);
  }

 private:
  std::string who() const { return fmt::format("engine {} at {}", name_, endpoint_.show()); }

  Result<http::Response> exchange(const http::Request& request, std::chrono::milliseconds timeout,
                                  std::stop_token stop) const {
    http::Limits limits{.connect = std::min(connect_, timeout), .response = timeout, .body_bytes = kAnswerBytes};
    auto response = http::send(endpoint_, request, limits, std::move(stop));
    if (response) return response;
    auto error = std::move(response).error().within(fmt::format("engine {}", name_));
    // What engine.h promises: an engine that cannot be reached is unavailable, one that answers nonsense has failed.
    if (error.kind == ErrorKind::io || error.kind == ErrorKind::denied) error.kind = ErrorKind::unavailable;
    if (error.kind == ErrorKind::corrupt) error.kind = ErrorKind::peer_failed;
    return std::unexpected(std::move(error));
  }

  const std::string name_;
  const http::Endpoint endpoint_;
  const std::chrono::milliseconds connect_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(std::string name, http::Endpoint endpoint, std::chrono::milliseconds connect) {
  return std::make_unique<SglangEngine>(std::move(name), std::move(endpoint), connect);
}

}  // namespace ckptd::fleet::sglang
