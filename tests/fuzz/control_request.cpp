// A client's request: the first line is "METHOD TARGET", the rest is the body.
#include <nlohmann/json.hpp>

#include "daemon/control/routes.h"
#include "proto/control/api.h"
#include "tests/fuzz/target.h"
#include "tests/unit/control/fake_operations.h"

namespace {

using namespace ckptd;
using nlohmann::json;

/// What was understood is said the same way again.
template <class Request>
void check_journey(std::string_view body, Result<Request> (*parse)(std::string_view)) {
  const auto parsed = parse(body);
  if (!parsed) return fuzz::check_refusal(parsed.error());
  const auto wire = proto::control::to_json(*parsed);
  const auto again = parse(wire.dump());
  fuzz::check(again && proto::control::to_json(*again) == wire, "a request survives the journey");
}

void check_response(const control::Response& response) {
  fuzz::check(response.status >= 200 && response.status < 500, "a request is answered, or refused as the client's fault");
  const auto body = response.body();
  const auto value = json::parse(body, nullptr, false);
  fuzz::check(!value.is_discarded(), "an answer is JSON");
  if (response.status < 400) return;
  const auto error = proto::control::parse_error(value);
  fuzz::check(error.kind != ErrorKind::internal && !error.sentence.empty(), "a refusal has a kind and a sentence");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static testing::FakeOperations operations;
  fuzz::Input input(data, size);
  const auto head = input.line();
  const auto space = std::min(head.find(' '), head.size());
  const auto target = head.substr(std::min(space + 1, head.size()));
  const auto mark = std::min(target.find('?'), target.size());

  control::Request request;
  request.method = head.substr(0, space);
  request.path = target.substr(0, mark);
  request.query = target.substr(std::min(mark + 1, target.size()));
  request.body = input.rest();
  const auto found = control::find_route(control::routes(), request);
  if (const auto* match = std::get_if<control::Match>(&found))
    check_response(control::run_handler(operations, *match));
  else
    check_response(std::get<control::Response>(found));

  check_journey(request.body, proto::control::parse_load_request);
  check_journey(request.body, proto::control::parse_update_request);
  check_journey(request.body, proto::control::parse_engine_request);
  if (const auto kept = proto::control::parse_keep_request(request.body); !kept) fuzz::check_refusal(kept.error());
  return 0;
}
