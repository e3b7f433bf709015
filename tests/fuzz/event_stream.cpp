// What a daemon sends as server-sent events, and something that only says it is one. The first byte is the size of the
// pieces that it comes in.
#include <nlohmann/json.hpp>
#include <vector>

#include "proto/control/events.h"
#include "tests/fuzz/target.h"

namespace {

using namespace ckptd;
using namespace ckptd::proto::control;

std::vector<WireEvent> cut(std::string_view bytes, std::size_t piece) {
  EventReader reader;
  std::vector<WireEvent> events;
  while (!bytes.empty()) {
    const auto fed = reader.feed(bytes.substr(0, piece));
    fuzz::check(fed.has_value(), "no event of a small input is too large");
    while (auto event = reader.next()) events.push_back(*std::move(event));
    bytes.remove_prefix(std::min(piece, bytes.size()));
  }
  return events;
}

bool is_same(const WireEvent& a, const WireEvent& b) { return a.id == b.id && a.name == b.name && a.data == b.data; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t piece = input.byte() % 16 + 1;
  const auto bytes = input.rest();
  const auto events = cut(bytes, piece);
  fuzz::check(std::ranges::equal(events, cut(bytes, bytes.size() + 1), is_same), "pieces make no difference");
  for (const auto& event : events) {
    // A name can hold what no daemon of ours writes; then only that it does no harm is promised.
    const auto again = cut(to_wire(event), 1 << 20);
    fuzz::check(again.size() == 1 && again[0].data == event.data, "an event survives the journey");
    const auto parsed = parse_event(event.name, nlohmann::json::parse(event.data, nullptr, false));
    if (!parsed) fuzz::check_refusal(parsed.error());
  }
  return 0;
}
