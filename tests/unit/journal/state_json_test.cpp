#include "daemon/journal/state_json.h"

#include <array>
#include <catch2/catch.hpp>
#include <random>

#include "samples.h"

namespace ckptd::journal {
namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

Error error_of(std::string_view text) {
  auto contents = from_json(text);
  REQUIRE_FALSE(contents);
  return contents.error();
}

TEST_CASE("contents survive the way through JSON") {
  for (const auto& contents : {Contents{}, full_contents()}) {
    auto read = from_json(to_json(contents));
    REQUIRE(read);
    CHECK(*read == contents);
  }
}

TEST_CASE("bytes that are not UTF-8 do not keep a state from being written") {
  auto contents = full_contents();
  contents.engines[0].poisoned = "rank said \xff\xfe";
  auto read = from_json(to_json(contents));
  REQUIRE(read);
  CHECK(read->engines[0].poisoned == "rank said \xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a newer format is refused by its number, whatever else it holds") {
  auto error = error_of(R"({"format":3,"shelves":[]})");
  CHECK(error.kind == ErrorKind::unsupported);
  CHECK(contains(error.sentence, "3"));
}

TEST_CASE("what format 1 wrote is read, and written as format 2") {
  const auto read = from_json(R"({"format":1,"updates":[],"in_custody":[],"engines":[{"name":"sglang-0","kind":"sglang",
      "endpoint":"http://127.0.0.1:30000","checkpoint":"m","devices":["HOST-0"],"poisoned":""}]})");
  REQUIRE(read);
  REQUIRE(read->engines.size() == 1);
  CHECK(read->engines[0].api_key_file.empty());
  CHECK(read->engines[0].admin_key_file.empty());
  CHECK(contains(to_json(*read), "\"format\": 2"));
}

TEST_CASE("what is not of this format is refused by its place") {
  struct Case {
    const char* text;
    const char* culprit;
  };
  const auto whole = to_json(full_contents());
  for (const auto& [text, culprit] : std::vector<Case>{
           {"[]", "format"},
           {"{}", "format"},
           {R"({"format":"1"})", "/format"},
           {R"({"format":1.0})", "/format"},
           {R"({"format":0})", "0"},
           {R"({"format":-1})", "-1"},
           {R"({"format":18446744073709551615})", "18446744073709551615"},
           {R"({"format":1})", "engines"},
           {R"({"format":1,"engines":[],"updates":[]})", "in_custody"},
           {R"({"format":1,"engines":{},"updates":[],"in_custody":[]})", "/engines"},
           {R"({"format":1,"engines":[],"updates":[],"in_custody":[],"more":1})", "more"},
           {R"({"format":1,"engines":[],"updates":[],"in_custody":[3]})", "/in_custody/0"},
           {R"({"format":1,"format":1,"engines":[],"updates":[],"in_custody":[]})", "format"},
           {R"({"format":1,"engines":[],"updates":[],"in_custody":[{"endpoint":"a"}]})", "device"},
           {R"({"format":1,"engines":[],"updates":[],"in_custody":[{"endpoint":"a","device":null}]})", "/device"},
           {R"({"format":1,"engines":[],"updates":[],"in_custody":[{"endpoint":"a","device":"b","device":"c"}]})",
            "device"},
       }) {
    INFO(text);
    auto error = error_of(text);
    CHECK(error.kind == ErrorKind::corrupt);
    CHECK(contains(error.sentence, culprit));
  }
  CHECK(contains(error_of(replaced(whole, "\"pushing\"", "\"pausing\"")).sentence, "pausing"));
  CHECK(contains(error_of(replaced(whole, "\"name\": \"bare\"", "\"name\": \"sglang-0\"")).sentence, "sglang-0"));
  CHECK(contains(error_of(replaced(whole, "\"poisoned\": \"\"", "\"poisoned\": false")).sentence,
                 "/engines/1/poisoned"));
  CHECK(contains(error_of(replaced(whole, "\"identity\"", "\"identify\"")).sentence, "/engines/0/target"));
}

TEST_CASE("what the life cycle needs is refused by its place as well") {
  const auto whole = to_json(full_contents());
  for (const auto& [from, to, culprit] : std::vector<std::array<const char*, 3>>{
           {"\"pid\": 4711", "\"pid\": -1", "/engines/0/listener/pid"},
           {"\"pid\": 4711", "\"pid\": 4294967296", "/engines/0/listener/pid"},
           {"\"started\": 123456789", "\"started\": -5", "/engines/0/listener/started"},
           {"\"started\": 123456789", "\"begun\": 5", "begun"},
           {"\"follow\": false", "\"follow\": \"no\"", "/engines/0/follow"},
           {"\"wake\": \"weights\"", "\"wake\": \"some\"", "/engines/0/wake"},
           {"\"label\": \"1\"", "\"label\": 1", "/engines/0/label"},
           {"\"drained\": true", "\"drained\": 1", "drained"},
           {"\"weight_version\": \"step-120\"", "\"weight_version\": 120", "/engines/0/target/weight_version"},
           {"\"forced\": true", "\"forced\": \"yes\"", "/engines/0/target/forced"},
       }) {
    INFO(to);
    const auto error = error_of(replaced(whole, from, to));
    CHECK(error.kind == ErrorKind::corrupt);
    CHECK(contains(error.sentence, culprit));
  }
}

TEST_CASE("a state of format 1 has the members of its time and no others") {
  CHECK(from_json(kFormat1));
  for (const auto* added : {R"("label":"1",)", R"("drained":true,)", R"("follow":false,)"}) {
    INFO(added);
    const auto error = error_of(replaced(kFormat1, R"("name")", std::string(added) + R"("name")"));
    CHECK(error.kind == ErrorKind::corrupt);
    CHECK(contains(error.sentence, "not one of format 1"));
  }
  CHECK(error_of(replaced(kFormat1, R"("in_custody")", R"("drained":true,"in_custody")")).kind == ErrorKind::corrupt);
  CHECK(contains(error_of(replaced(kFormat1, R"("identity")", R"("forced":true,"identity")")).sentence,
                 "not one of format 1"));
}

TEST_CASE("a version says how it was given only where that was said") {
  auto contents = full_contents();
  contents.engines[0].target->weight_version.clear();
  contents.engines[0].target->forced = false;
  const auto text = to_json(contents);  // as it was before there were such members
  CHECK_FALSE(contains(text, "weight_version"));
  CHECK_FALSE(contains(text, "forced"));
  const auto read = from_json(text);
  REQUIRE(read);
  CHECK(*read == contents);
}

TEST_CASE("bytes that are not JSON are named by their number") {
  CHECK(contains(error_of("").sentence, "byte"));
  CHECK(contains(error_of(R"({"format":1,,)").sentence, "byte 13"));
  CHECK(contains(error_of("{\"format\":1,\"engines\":[\"\xff\"]}").sentence, "byte 25"));
  CHECK(error_of(std::string("\0\0\0\0", 4)).kind == ErrorKind::corrupt);
  CHECK(error_of(to_json(full_contents()) + "}").kind == ErrorKind::corrupt);
}

TEST_CASE("nesting without end is an error and not a stack overflow") {
  CHECK(error_of(std::string(1 << 17, '[')).kind == ErrorKind::corrupt);
  std::string closed = R"({"format":1,"engines":)" + std::string(1 << 17, '[') + std::string(1 << 17, ']') + "}";
  CHECK(error_of(closed).kind == ErrorKind::corrupt);
}

TEST_CASE("a state that is cut off anywhere is refused") {
  const auto whole = to_json(full_contents());
  for (std::size_t length = 0; length + 2 < whole.size(); ++length) {
    INFO(length);
    CHECK(error_of(std::string_view(whole).substr(0, length)).kind == ErrorKind::corrupt);
  }
}

TEST_CASE("a damaged byte is either read as text or refused with a sentence") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto whole = to_json(full_contents());
  std::size_t refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (int round = 0; round < 4; ++round) {
      auto damaged = whole;
      damaged[at] = static_cast<char>(random());
      auto contents = from_json(damaged);
      if (contents) {
        auto again = from_json(to_json(*contents));
        REQUIRE(again);
        CHECK(*again == *contents);
        continue;
      }
      ++refused;
      CHECK_FALSE(contents.error().sentence.empty());
      // A flipped format number may look like a newer one; all else is damage.
      CHECK((contents.error().kind == ErrorKind::corrupt || contents.error().kind == ErrorKind::unsupported));
    }
  CHECK(refused > whole.size() / 2);
}

}  // namespace
}  // namespace ckptd::journal
