#include "daemon/records/records.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/unit/records/samples.h"

using namespace ckptd;
using namespace ckptd::records;
using namespace ckptd::records::testing;

namespace {

bool holds(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

const api::StageFigure& stage(const api::LaneRecord& lane, std::string_view name) {
  const auto at = std::ranges::find(lane.stages, name, &api::StageFigure::name);
  REQUIRE(at != lane.stages.end());
  return *at;
}

PushAccount slow_device() {
  return push({lane("A", 7, {span(What::connect, 0, 1), span(What::upload, 1, 11, 0, 5'000'000),
                             span(What::reload, 11, 12, 0, 5'000'000), span(What::release, 12, 13),
                             span(What::finish, 13, 14)})},
              {{"ping", 0}, {"push", 0}}, 14);
}

}  // namespace

TEST_CASE("a record has each stage's bytes, rate and share of the measured peak") {
  const auto record = push_record(slow_device(), {.copy = {{"A", 10e6}}, .hash = {}});
  REQUIRE(record.lanes.size() == 1);
  const auto& lane = record.lanes[0];
  CHECK(lane.bytes == 5'000'000);
  CHECK(lane.pid == 7);
  CHECK(lane.buckets_uploaded == 1);
  CHECK(stage(lane, "upload").bytes == 5'000'000);
  CHECK(stage(lane, "upload").bytes_per_second == Approx(5e6));
  REQUIRE(stage(lane, "upload").share_of_peak);
  CHECK(*stage(lane, "upload").share_of_peak == Approx(0.5));
  CHECK(*stage(lane, "upload").peak_bytes_per_second == Approx(stage(lane, "upload").bytes_per_second * 2));
  CHECK_FALSE(stage(lane, "reload").peak_bytes_per_second);
  CHECK_FALSE(stage(lane, "reload").share_of_peak);  // a rank's best is not ours to measure
  CHECK(stage(lane, "connect").bytes == 0);
  CHECK(record.bounded_by == "upload");
  CHECK(holds(record.because, "50 % of the device's measured peak"));
  CHECK(record.state == "succeeded");
  CHECK(record.came_to.empty());
  REQUIRE(record.slowest.size() == 2);
  CHECK(record.slowest[0].stage == "upload");
  CHECK(record.slowest[0].seconds == Approx(1));
}

TEST_CASE("with a broadcast a lane's upload is of the buckets that it owns, and the others' are spread") {
  auto account = push({lane("A", 7, {span(What::upload, 0, 10, 0, 4'000'000), span(What::upload, 10, 14, 1, 6'000'000)}),
                       lane("B", 8, {span(What::upload, 0, 11, 0, 4'000'000), span(What::upload, 11, 14, 1, 6'000'000)})},
                      {{"push", 0}}, 20);
  account.fan_out = "broadcast";
  account.owners = {0, 1};
  Peaks peaks;
  peaks.copy = {{"A", 800e6}, {"B", 800e6}};
  const auto record = push_record(account, peaks);
  const auto &first = record.lanes.at(0), &second = record.lanes.at(1);
  CHECK(first.buckets_uploaded == 1);
  CHECK(stage(first, "upload").bytes == 4'000'000);
  CHECK(stage(first, "spread").bytes == 6'000'000);
  CHECK(stage(second, "upload").bytes == 6'000'000);
  CHECK(stage(second, "spread").bytes == 4'000'000);
  // Each through its own link alone.
  CHECK(*stage(first, "upload").share_of_peak == Approx(stage(first, "upload").bytes_per_second / 800e6));
  CHECK_FALSE(stage(first, "spread").peak_bytes_per_second);  // measured before such peaks were
  CHECK(update_record(job(20), {account}, peaks).notes.size() == 1);

  peaks.spread = {{"A", 3000e6}, {"B", 4000e6}};
  const auto known = update_record(job(20), {account}, peaks);
  CHECK(known.notes.empty());
  const auto& spread = stage(known.engines.at(0).lanes.at(1), "spread");
  CHECK(*spread.peak_bytes_per_second == Approx(4000e6));
  CHECK(*spread.share_of_peak == Approx(spread.bytes_per_second / 4000e6));
  CHECK(*stage(known.engines[0].lanes[1], "upload").peak_bytes_per_second == Approx(800e6));
}

TEST_CASE("without a peak the record says how to measure one") {
  const auto record = update_record(job(14), {slow_device()}, {});
  CHECK_FALSE(stage(record.engines[0].lanes[0], "upload").share_of_peak);
  REQUIRE(record.notes.size() == 1);
  CHECK(holds(record.notes[0], "ckptctl probe"));
  CHECK(update_record(job(14), {slow_device()}, {.copy = {{"A", 1}}, .hash = {}}).notes.empty());
}

TEST_CASE("several ranks that each held up a part are together the reason") {
  // Lane 0 waits 0.6 s each for B and C, and 0.7 s for its own upload.
  const auto account =
      push({lane("A", 7, {span(What::connect, 0, 1), span(What::upload, 1, 8, 0, 1), span(What::upload, 8, 20, 1, 1), span(What::reload, 20, 21, 1, 1)}),
            lane("B", 8, {span(What::connect, 0, 1), span(What::reload, 8, 14, 0, 1)}),
            lane("C", 9, {span(What::connect, 0, 1), span(What::reload, 14, 20, 0, 1)})},
           {{"push", 0}}, 21, "broadcast");
  const auto record = push_record(account, {});
  CHECK(record.bounded_by == "collective");
  CHECK(holds(record.because, "1.20 s of 2.10 s"));
}

TEST_CASE("a failed push says how far it came and who failed") {
  auto account = slow_device();
  account.error = Error{ErrorKind::peer_failed, "it raised", "Traceback", {{"device", "A"}, {"pid", "7"}}};
  account.touched = true;
  account.reloaded_bytes = 500;
  auto record = push_record(account, {});
  CHECK(record.state == "failed");
  CHECK(record.failed == "the rank on A (pid 7)");
  CHECK(holds(record.came_to, "500 B of 1000 B"));
  REQUIRE(record.error);
  CHECK(record.error->vendor == "Traceback");

  struct Row {
    std::string what;
    std::vector<const char*> steps;
    Error error;
    bool engine_failed;
    std::string failed, came_to;
  };
  for (const auto& row : std::vector<Row>{
           {"gone", {"ping"}, {ErrorKind::unavailable, "gone"}, false, "engine e", "in its step 'ping'; the engine was not touched"},
           {"no arena", {"ping", "arena"}, {ErrorKind::no_space, "no"}, false, "", "in its step 'arena'"},
           {"said no", {"push", "answer"}, {ErrorKind::peer_failed, "no"}, true, "engine e", "0 of 0 ranks had connected"},
           {"nobody came", {"push"}, {ErrorKind::timed_out, "x", "", {{"device", "B"}}}, false, "the rank on B", "no weights were sent"},
           {"cancelled", {"push"}, {ErrorKind::cancelled, "x", "", {{"device", "B"}}}, false, "", "no weights were sent"},
           {"at once", {}, {ErrorKind::internal, "x"}, false, "", "had not begun"}}) {
    INFO(row.what);
    PushAccount bare;
    bare.engine = "e";
    bare.begin = at(0);
    bare.end = at(10);
    for (const auto* step : row.steps) bare.steps.begin(step, at(1));
    bare.steps.end(at(10));
    bare.error = row.error;
    bare.engine_failed = row.engine_failed;
    const auto of_bare = push_record(bare, {});
    CHECK(of_bare.failed == row.failed);
    CHECK(holds(of_bare.came_to, row.came_to));
    CHECK(of_bare.state == (row.error.kind == ErrorKind::cancelled ? "cancelled" : "failed"));
  }
}

TEST_CASE("a step of ckptd's own is named when it is most of the overhead, and only then") {
  const auto arena = push({lane("A", 7, {span(What::connect, 12, 13), span(What::reload, 13, 14)})},
                          {{"ping", 0}, {"arena", 1}, {"plan", 11}, {"push", 12}}, 14);
  CHECK(holds(push_record(arena, {}).because, "the longest of them 'arena' with 1.00 s"));
  const auto gap = push({lane("A", 7, {span(What::connect, 1, 2), span(What::reload, 2, 3)})}, {{"arena", 0}, {"push", 1}}, 20);
  CHECK(push_record(gap, {}).bounded_by == "overhead");
  CHECK_FALSE(holds(push_record(gap, {}).because, "arena"));
}

TEST_CASE("only the slowest buckets are listed, longest first") {
  std::vector<pipeline::Span> spans;
  for (int i = 0; i < 100; ++i) spans.push_back(span(What::upload, i, i + 1 + i % 7, static_cast<std::uint32_t>(i), 1));
  const auto record = push_record(push({lane("A", 7, spans)}, {{"push", 0}}, 110), {});
  REQUIRE(record.slowest.size() == 20);
  CHECK(std::ranges::is_sorted(record.slowest, std::ranges::greater{}, &api::SlowBucket::seconds));
  CHECK(record.slowest.front().seconds == Approx(0.7));
}

TEST_CASE("what bounded a load") {
  struct Row {
    std::string what;
    int open, reserve, read, last_read;  ///< tenths; last_read from the begin of the reading, -1: not known
    std::optional<std::uint64_t> cached;
    std::string bounded_by;
  };
  const std::vector<Row> rows{
      {"a slow disk", 1, 1, 20, 20, 0, "storage"},
      {"everything in memory", 1, 1, 20, 20, 1000, "page_cache"},
      {"half and half counts as storage", 1, 1, 20, 20, 500, "storage"},
      {"nobody counted", 1, 1, 20, -1, std::nullopt, "read"},
      {"hashing lags far behind", 1, 1, 20, 10, 0, "hash"},
      {"only the last piece lags", 1, 1, 20, 19, 0, "storage"},
      {"touching memory", 1, 25, 20, 20, 0, "reserve"},
      {"a directory on a slow server", 30, 1, 20, 20, 0, "open"},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    LoadAccount load;
    load.steps.begin("open", at(0));
    load.steps.begin("reserve", at(row.open));
    const auto begin = row.open + row.reserve;
    load.steps.begin("read", at(begin));
    load.steps.end(at(begin + row.read));
    load.total_bytes = load.read_bytes = load.hashed_bytes = 1000;
    load.cached_bytes = row.cached;
    if (row.last_read >= 0) load.last_read = at(begin + row.last_read);
    const auto record = load_record(job(begin + row.read, "load"), load, {});
    REQUIRE(record.load);
    CHECK(record.load->bounded_by == row.bounded_by);
    CHECK_FALSE(record.load->because.empty());
    double sum = 0;
    for (const auto& share : record.load->shares) sum += share.seconds;
    CHECK(sum == Approx(record.seconds));
    if (row.cached) CHECK(*record.load->storage_bytes + *record.load->page_cache_bytes == 1000);
  }
}

TEST_CASE("hashing is compared with one core, and what prefetch told goes before what we saw") {
  LoadAccount load;
  load.steps.begin("open", at(0));
  load.steps.begin("read", at(1));
  load.steps.end(at(11));
  load.told = {{"read", 0.5, 1000}, {"hash", 2, 8'000'000'000}};
  load.read_bytes = 1000;
  const auto record = load_record(job(11, "load"), load, {.copy = {}, .hash = 8e9});
  std::vector<std::string> names;
  for (const auto& each : record.load->stages) names.push_back(each.name);
  CHECK(names == std::vector<std::string>{"open", "read", "hash"});
  CHECK(record.load->stages[1].seconds == 0.5);
  REQUIRE(record.load->stages[2].share_of_peak);
  CHECK(*record.load->stages[2].peak_bytes_per_second == Approx(record.load->stages[2].bytes_per_second * 2));
  CHECK(*record.load->stages[2].share_of_peak == Approx(0.5));
}

TEST_CASE("a load that fails says how far it came, at every step") {
  for (const auto& [last, came_to] : std::vector<std::pair<std::string, std::string>>{
           {"open", "it ended in its step 'open'"}, {"reserve", "it ended in its step 'reserve'"}, {"read", "10 B of 1000 B were read"}}) {
    LoadAccount load;
    load.steps.begin(last, at(0));
    load.steps.end(at(3));
    load.read_bytes = last == "read" ? 10 : 0;
    load.total_bytes = 1000;
    load.error = Error{ErrorKind::io, "x"};
    const auto record = load_record(job(3, "load"), load, {});
    CHECK(record.load->came_to == came_to);
    CHECK(holds(in_one_line(record), "load-1"));
  }
  CHECK(load_record(job(0, "load"), {}, {}).load->bounded_by == "other");
}

TEST_CASE("the line for the log names engine, rate, verdict and how far a failure came") {
  auto good = in_one_line(update_record(job(14), {slow_device()}, {}));
  CHECK(holds(good, "update-1 succeeded after 1.40 s; e: 1000 B to each of 1"));
  CHECK(holds(good, "bounded by upload"));
  CHECK_FALSE(holds(good, "\n"));
  auto failed = slow_device();
  failed.error = Error{ErrorKind::io, "x"};
  CHECK(holds(in_one_line(update_record(job(14), {failed}, {})), "no weights were sent"));
}
