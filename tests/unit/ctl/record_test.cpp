// The record of a job as text, and its trace as a page.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

#include "ctl/summaries.h"
#include "ctl/text.h"
#include "ctl/trace_page.h"

namespace ckptd::ctl {
namespace {

namespace api = proto::control;
using nlohmann::json;

bool holds(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::size_t count_of(const std::string& text, std::string_view part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

api::JobRecord update_record() {
  api::PushRecord push{.engine = "sglang-0", .state = "succeeded", .seconds = 2.9, .bytes = 1'000'000'000, .buckets = 16,
                       .bucket_bytes = 64 << 20, .arena_bytes = 128 << 20, .copy_runs = 31, .fan_out = "independent",
                       .bounded_by = "reload", .because = "the rank on GPU-1 (pid 47) was loading weights, 2.10 s of 2.90 s (72 %)"};
  push.shares = {{"reload", 2.1, "the rank on GPU-11111111-2222-3333-4444-555555555555 (pid 47)"}, {"overhead", 0.8, ""}};
  push.steps = {{"arena", 0.25, 0, 0, {}}, {"push", 2.5, 0, 0, {}}};
  for (const auto* device : {"GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa"}) {
    api::LaneRecord lane{.device = device, .pid = 47, .bytes = 1'000'000'000, .bounded_by = "reload"};
    lane.stages = {{"connect", 0.1, 0, 0, {}}, {"upload", 0.5, 1'000'000'000, 2e9, 4.54e9, 0.44}, {"reload", 2.1, 1'000'000'000, 4.8e8, {}}};
    push.lanes.push_back(lane);
  }
  push.slowest = {{"GPU-11111111-2222-3333-4444-555555555555", "reload", 3, 64 << 20, 0.7}};
  return {.job = "update-3", .kind = "update", .state = "succeeded", .seconds = 3, .engines = {push}, .load = {},
          .notes = {"no peak measured: ckptctl probe"}};
}

}  // namespace

TEST_CASE("a record says what bounded the update, how fast each stage was, and against what") {
  const auto text = show_record(update_record(), {});
  for (const auto* part : {"engine sglang-0 succeeded", "reload: the rank on GPU-1 (pid 47) was loading weights, 2.10 s of 2.90 s",
                           "954 MiB to each of 2 devices", "16 buckets of up to 64.0 MiB in 31 copy runs, arena 128 MiB, independent",
                           "44 %", "2.00 GB/s", "4.54 GB/s", "72 %", "bucket 3", "arena 250 ms", "ckptctl probe"})
    CHECK(holds(text, part));
}

TEST_CASE("the tables of a record fit 80 columns") {
  View terminal;
  terminal.width = 80;
  terminal.utf8 = true;
  std::istringstream lines(show_record(update_record(), terminal));
  bool in_table = false;
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (holds(line, "TIME")) in_table = true;
    if (line.empty()) in_table = false;
    if (!in_table) continue;
    INFO(line);
    CHECK(display_width(line) <= 80);
    ++rows;
  }
  CHECK(rows == 2 + 1 + 6 + 1);
}

TEST_CASE("a failed update says who failed and how far it came; the error stands there once") {
  auto record = update_record();
  record.state = record.engines[0].state = "failed";
  record.engines[0].failed = "the rank on HOST-1 (pid 47)";
  record.engines[0].came_to = "the ranks had acknowledged 5 B of 10 B";
  record.engines[0].error = Error{ErrorKind::peer_failed, "it raised"};
  api::Job job;
  job.id = "update-3";
  job.state = "failed";
  job.error = record.engines[0].error;
  job.record = record;
  const auto text = show_job(job, {});
  CHECK(holds(text, "the rank on HOST-1 (pid 47)"));
  CHECK(holds(text, "5 B of 10 B"));
  CHECK(count_of(text, "it raised") == 1);
  job.record->engines.push_back(record.engines[0]);
  CHECK(count_of(show_job(job, {}), "it raised") == 3);
}

TEST_CASE("names in a record cannot drive the terminal") {
  auto record = update_record();
  record.engines[0].engine = record.engines[0].because = record.engines[0].came_to = record.notes[0] = "\x1b[2J\x07";
  record.engines[0].lanes[0].device = record.engines[0].shares[0].waited_for = "\x1b[31m";
  CHECK_FALSE(holds(show_record(record, {}), "\x1b"));
}

TEST_CASE("a load's record shows disk against page cache") {
  api::LoadRecord load{.seconds = 2, .bytes = 3 << 20, .bounded_by = "storage", .because = "reading from storage"};
  load.shares = {{"storage", 1.5, ""}, {"open", 0.5, ""}};
  load.stages = {{"read", 1.5, 3 << 20, 2e6, {}}, {"hash", 1, 3 << 20, 3e6, 7.5e6, 0.4}};
  load.storage_bytes = 2 << 20;
  load.page_cache_bytes = 1 << 20;
  const auto text = show_record({.job = "load-1", .kind = "load", .state = "succeeded", .seconds = 2, .engines = {}, .load = load, .notes = {}}, {});
  CHECK(holds(text, "2.00 MiB from storage, 1.00 MiB from the page cache"));
  CHECK(holds(text, "40 %"));
  load.stages = {{"reserve", 2e-5, 1 << 30, 0, {}}};  // memory that was ready has no rate
  CHECK_FALSE(holds(show_record({.job = "load-1", .kind = "load", .state = "succeeded", .seconds = 2, .engines = {}, .load = load, .notes = {}}, {}), "GB/s"));
  api::Job job;
  job.record = api::JobRecord{};
  CHECK(verdict_of(job).empty());
  job.record->load = load;
  CHECK(verdict_of(job) == "  bounded by storage: reading from storage\n");
}

TEST_CASE("the page has its marker once, and takes nothing from elsewhere") {
  const std::string page(kTracePage);
  CHECK(count_of(page, kTracePageMarker) == 1);
  CHECK(holds(page, "</html>"));
  for (const auto* outside : {"http://", "https://", "src=", "@import", "url(", "innerHTML", "document.write", "eval("}) {
    INFO(outside);
    CHECK_FALSE(holds(page, outside));
  }
}

TEST_CASE("no name ends the page's script block, and all names come back as they were") {
  for (const auto* name : {"</script><script>alert(1)</script>", "<!--<script>", "-->", "&lt;", "\"'\\", "]]>", "\xe2\x80\xa8", "{\"ckptd\": \"the data goes here\"}"}) {
    INFO(name);
    const json job{{"id", "update-1"}, {"subject", name}}, trace{{"traceEvents", {{{"name", name}}}}};
    const auto page = trace_page(job, trace);
    CHECK(count_of(page, "</script>") == count_of(std::string(kTracePage), "</script>"));
    CHECK(count_of(page, "<!--") == count_of(std::string(kTracePage), "<!--"));
    const std::string open = "id=\"data\">";
    const auto begin = page.find(open) + open.size();
    const auto data = json::parse(page.substr(begin, page.find("</script>", begin) - begin), nullptr, false);
    REQUIRE(data.is_object());
    CHECK(data["job"]["subject"] == name);
    CHECK(data["trace"]["traceEvents"][0]["name"] == name);
  }
  CHECK_NOTHROW(trace_page({{"subject", "\xff\xfe"}}, json::object()));
}

TEST_CASE("peaks are shown with their age") {
  View view;
  view.now = api::parse_time("2030-01-03T00:00:00Z").value();
  CHECK(show_peak({"copy", "HOST-0", 9.1e9, 1, "2030-01-01T00:00:00Z"}, view) == "copies 9.10 GB/s at best (measured 2 d ago)");
  CHECK(holds(show_peak({"hash", "", 9.1e9, 1, "nonsense"}, view), "one core hashes 9.10 GB/s"));
  const api::Peak spread{"spread", "HOST-0", 20.5e9, 1, "2030-01-01T00:00:00Z"};
  CHECK(show_peak(spread, view) == "copies from another device 20.50 GB/s at best (measured 2 d ago)");
  api::Status status;
  CHECK(holds(show_status(status, view), "ckptctl probe"));
  status.devices = {{"HOST-0", "host", 1}};
  status.peaks = {{"copy", "HOST-0", 9.1e9, 1, "2030-01-01T00:00:00Z"}, {"hash", "", 8e9, 1, "2030-01-01T00:00:00Z"}};
  CHECK(holds(show_status(status, view), "HOST-0  host, 1 B free, copies 9.10 GB/s at best"));
  CHECK(holds(show_status(status, view), "one core hashes 8.00 GB/s"));
  status.peaks.push_back(spread);
  CHECK(holds(show_status(status, view), "(measured 2 d ago), copies from another device 20.50 GB/s at best"));
}

}  // namespace ckptd::ctl
