#include "proto/control/events.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>

using namespace ckptd;
using namespace ckptd::proto::control;
using nlohmann::json;

namespace {

std::vector<WireEvent> cut(std::string_view text, std::size_t piece) {
  EventReader reader;
  std::vector<WireEvent> events;
  for (; !text.empty(); text.remove_prefix(std::min(piece, text.size()))) {
    REQUIRE(reader.feed(text.substr(0, piece)));
    while (auto event = reader.next()) events.push_back(*event);
  }
  return events;
}

std::string show(const std::vector<WireEvent>& events) {
  std::string text;
  for (const auto& event : events) text += fmt::format("[{}|{}|{}]", event.id, event.name, event.data);
  return text;
}

}  // namespace

TEST_CASE("an event as it travels") {
  CHECK(to_wire({"a-1", "job-ended", "{}"}) == "id: a-1\nevent: job-ended\ndata: {}\n\n");
  CHECK(to_wire({"", "", "x"}) == "data: x\n\n");
  CHECK(to_wire({"", "n", "a\nb\r\nc\rd\n"}) == "event: n\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
  // Nothing can smuggle in a field of its own.
  CHECK(to_wire({"1\ndata: x", "n\r\nid: 9", "y"}) == "id: 1 data: x\nevent: n  id: 9\ndata: y\n\n");
}

TEST_CASE("a stream is cut the same way whatever pieces it comes in") {
  using namespace std::string_view_literals;  // one id has a zero byte, which makes it no id
  const auto stream =
      "\xef\xbb\xbf: a comment\n\nid: 1\nevent: a\ndata: x\n\n"
      "data:no blank\r\ndata\r\ndata:  two blanks\r\n\r\n"
      "event: only a name\n\n"
      "id: 2\rdata: cr\r\r"
      "unknown: field\nretry: 10\nid: a\0b\ndata: {\"a\":1}\n\n"
      "id\ndata: none\n\n"
      "data: never finished\n"sv;
  for (std::size_t piece : {1u, 2u, 3u, 7u, 1000u})
    CHECK(show(cut(stream, piece)) == "[1|a|x][1||no blank\n\n two blanks][2||cr][2||{\"a\":1}][||none]");
}

TEST_CASE("what is written is read again") {
  std::mt19937 random(5);
  const std::string letters = "ab: \n\r{}\"\xc3\xa4";
  for (int round = 0; round < 500; ++round) {
    WireEvent event{"id", "name", ""};
    for (unsigned i = 0; i < random() % 20; ++i) event.data += letters[random() % letters.size()];
    auto read = cut(to_wire(event), 1 + random() % 9);
    REQUIRE(read.size() == 1);
    // Every end of a line comes back as LF.
    std::string wanted;
    for (std::size_t i = 0; i < event.data.size(); ++i)
      if (event.data[i] != '\r')
        wanted += event.data[i];
      else if (i + 1 == event.data.size() || event.data[i + 1] != '\n')
        wanted += '\n';
    CHECK(read[0].data == wanted);
  }
}

TEST_CASE("random bytes are no harm, and one event has a limit") {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    std::string bytes;
    for (int i = 0; i < 200; ++i) bytes += "\n\r:dataid \x00\xff"[random() % 12];
    (void)cut(bytes, 1 + random() % 20);
  }
  EventReader reader(100);
  REQUIRE(reader.feed("data: " + std::string(50, 'x') + "\n"));
  CHECK_FALSE(reader.next());
  auto too_much = reader.feed("data: " + std::string(50, 'x') + "\n");
  REQUIRE_FALSE(too_much);
  CHECK(too_much.error().kind == ErrorKind::corrupt);
}

TEST_CASE("every kind of event survives the journey") {
  Job job;
  job.id = "load-1";
  job.state = "succeeded";
  job.result = R"({"bytes":1})";
  Engine engine;
  engine.name = "e";
  engine.state = "idle";
  Version version;
  version.name = "n";
  version.version = "1";
  version.state = "resident";
  using Kind = Event::Kind;
  for (const auto& event : {Event{Kind::job_started, job}, Event{Kind::job_progress, job}, Event{Kind::job_ended, job},
                            Event{Kind::engine_changed, engine}, Event{Kind::engine_removed, engine},
                            Event{Kind::version_changed, version}, Event{Kind::version_removed, version}}) {
    INFO(name_of(event.kind));
    auto read = parse_event(name_of(event.kind), data_of(event));
    REQUIRE(read);
    REQUIRE(*read);
    CHECK((*read)->kind == event.kind);
    CHECK(data_of(**read) == data_of(event));
    CHECK_FALSE(parse_event(name_of(event.kind), json::array()));
    CHECK_FALSE(parse_event(name_of(event.kind), json(json::value_t::discarded)));
  }
  auto unknown = parse_event("something-new", json::object());
  REQUIRE(unknown);
  CHECK_FALSE(*unknown);
}
