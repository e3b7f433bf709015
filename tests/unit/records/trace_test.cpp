#include "daemon/records/trace.h"

#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "tests/support/shuffling_device/seed.h"
#include "tests/unit/records/samples.h"

using namespace ckptd;
using namespace ckptd::records;
using namespace ckptd::records::testing;
using nlohmann::json;

namespace {

/// What a viewer relies on: complete events in order, none negative, none over another of its row, all rows named.
void check_valid(const json& trace) {
  double last = 0;
  std::map<std::pair<int, int>, double> free_from;
  std::map<std::pair<int, int>, std::string> rows;
  const double duration = trace["otherData"]["duration_us"];
  for (const auto& event : trace["traceEvents"]) {
    const auto row = std::pair{event["pid"].get<int>(), event["tid"].get<int>()};
    CHECK(row.first > 0);
    if (event["ph"] == "M") {
      if (event["name"] == "thread_name") rows[row] = event["args"]["name"];
      continue;
    }
    REQUIRE(event["ph"] == "X");
    const double begin = event["ts"], span = event["dur"];
    CHECK(begin >= last);
    CHECK(span >= 0);
    CHECK(begin + span <= duration + 0.001);
    CHECK(begin >= free_from[row] - 0.001);
    CHECK(rows.contains(row));
    last = begin;
    free_from[row] = begin + span;
  }
}

std::size_t count_of(const json& trace, const std::string& kind) {
  std::size_t count = 0;
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "X" && event["cat"] == kind) ++count;
  return count;
}

}  // namespace

TEST_CASE("a trace has a row for each lane's uploads and for its rank, with bucket, bytes and rate") {
  const auto account = push({lane("HOST-0", 47, {span(What::connect, 1, 2), span(What::upload, 1, 3, 0, 600), span(What::upload, 3, 5, 1, 400),
                                                 span(What::reload, 3, 6, 0, 600), span(What::reload, 6, 7, 1, 400),
                                                 span(What::release, 7, 8), span(What::finish, 8, 9)})},
                            {{"arena", 0}, {"push", 1}, {"answer", 9}}, 10);
  const auto trace = to_json(update_trace(job(10), {account}));
  check_valid(trace);
  std::set<std::string> names;
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "M" && event["args"].contains("name")) names.insert(event["args"]["name"]);
  for (const auto* name : {"job update-1", "engine e", "steps", "HOST-0 upload", "HOST-0 rank (pid 47)"}) CHECK(names.contains(name));
  for (const auto& [kind, events] : std::map<std::string, std::size_t>{
           {"update", 1}, {"arena", 1}, {"answer", 1}, {"connect", 1}, {"upload", 2}, {"reload", 2}, {"release", 1}, {"finish", 1}})
    CHECK(count_of(trace, kind) == events);
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X" || event["cat"] != "upload" || event["args"]["bucket"] != 1) continue;
    CHECK(event["name"] == "upload 1");
    CHECK(event["ts"] == 300'000);
    CHECK(event["dur"] == 200'000);
    CHECK(event["args"]["bytes"] == 400);
    CHECK(event["args"]["bytes_per_second"] == Approx(2000));
  }
}

TEST_CASE("names that would break out of JSON or HTML come back as they were") {
  auto account = push({lane("</script><b>\"'\\\n\x01\xff", 1, {span(What::reload, 0, 1)})}, {{"push", 0}}, 2);
  account.engine = "e\"</script><script>alert(1)</script>";
  auto whole = job(2);
  whole.subject = "\xff\xfe <!-- \" -->";
  const auto text = to_json(update_trace(whole, {account})).dump(-1, ' ', false, json::error_handler_t::replace);
  const auto back = json::parse(text, nullptr, false);
  REQUIRE(back.is_object());
  check_valid(back);
  bool found = false;
  for (const auto& event : back["traceEvents"])
    found = found || (event["name"] == "process_name" && event["args"]["name"] == "engine e\"</script><script>alert(1)</script>");
  CHECK(found);
}

TEST_CASE("a trace of many buckets is bounded, and tells of all of them") {
  std::vector<pipeline::Span> spans;
  std::uint64_t bytes = 0;
  for (int i = 0; i < 5'000; ++i) {
    spans.push_back(span(What::upload, i, i + 1, static_cast<std::uint32_t>(i), 10));
    spans.push_back(span(What::reload, i + 1, i + 2, static_cast<std::uint32_t>(i), 10));
    bytes += 10;
  }
  const auto account = push({lane("A", 1, spans), lane("B", 2, spans)}, {{"push", 0}}, 5'002);
  const auto trace = update_trace(job(5'002), {account}, 1'000);
  CHECK(trace.events.size() <= 1'010);
  CHECK(trace.spans == 20'000 + 2);
  const auto shown = to_json(trace);
  check_valid(shown);
  std::map<std::string, std::uint64_t> sums, buckets;
  for (const auto& event : shown["traceEvents"])
    if (event["ph"] == "X" && event["args"].contains("bytes")) {
      sums[event["cat"]] += event["args"]["bytes"].get<std::uint64_t>();
      buckets[event["cat"]] += event["args"].value("buckets", std::uint64_t{1});
    }
  CHECK(sums["upload"] == 2 * bytes);
  CHECK(buckets["reload"] == 10'000);
}

TEST_CASE("whatever spans are told, the trace is one that viewers can show") {
  std::mt19937_64 random(tests::seed_of_run());
  for (int round = 0; round < 200; ++round) {
    const auto draw = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most)); };
    std::vector<pipeline::LaneReport> lanes;
    for (int i = draw(4); i > 0; --i) {
      std::vector<pipeline::Span> spans;
      for (int n = draw(60); n > 0; --n)
        spans.push_back(span(static_cast<What>(draw(5)), draw(60) - 10, draw(60) - 10, static_cast<std::uint32_t>(draw(9)),
                             static_cast<std::uint64_t>(draw(100))));
      lanes.push_back(lane(fmt::format("D{}", i), draw(2), std::move(spans)));
    }
    auto account = push(lanes, {{"ping", draw(5)}, {"push", 5 + draw(5)}}, 30 + draw(10));
    account.steps.begin("journal", at(draw(30)));  // perhaps inside another
    account.steps.end(at(draw(40)));
    check_valid(to_json(update_trace(job(20 + draw(30)), {account, account}, static_cast<std::size_t>(1 + draw(50)))));
  }
}

TEST_CASE("a load's trace has its steps, and reading beside hashing") {
  LoadAccount load;
  load.steps.begin("open", at(0));
  load.steps.begin("reserve", at(1));
  load.steps.begin("read", at(3));
  load.steps.end(at(9));
  load.read_bytes = load.hashed_bytes = 600;
  load.last_read = at(8);
  const auto trace = to_json(load_trace(job(10, "load"), load));
  check_valid(trace);
  CHECK(count_of(trace, "read") == 2);  // the step and the reads
  CHECK(count_of(trace, "hash") == 1);
  CHECK(count_of(to_json(load_trace(job(0, "load"), {})), "load") == 1);
}
