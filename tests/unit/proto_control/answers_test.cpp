#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "proto/control/api.h"

using namespace ckptd;
using namespace ckptd::proto::control;
using nlohmann::json;

namespace {

const Time kNoon = std::chrono::sys_days(std::chrono::year(2030) / 2 / 28) + std::chrono::hours(12);

Error an_error() {
  return Error{ErrorKind::peer_failed,
               "engine sglang-0: rank HOST-1 died",
               "Traceback: \"x\"\nline 2",
               {{"job", "update-3"}, {"rank", "HOST-1"}}};
}

Job a_job() {
  return {.id = "update-3",
          .kind = "update",
          .subject = "n@1 -> e",
          .state = "failed",
          .stage = "reload",
          .done_bytes = 5,
          .total_bytes = ~std::uint64_t{0},
          .error = an_error(),
          .result = R"({"seconds":1.5})",
          .started = kNoon,
          .ended = kNoon + std::chrono::seconds(61),
          .cancel_requested = true,
          .stages = {{"read", 1.25, 7}, {"hash", 0.5, 0}}};
}

Engine an_engine() {
  return {.name = "e",
          .kind = "sglang",
          .endpoint = "http://[::1]:1",
          .checkpoint = "n",
          .devices = {"HOST-0"},
          .target = "n@2",
          .serving = "n@1",
          .state = "poisoned",
          .poisoned = "rank died",
          .job = "update-3"};
}

JobRecord a_record() {
  JobRecord record{.job = "update-3", .kind = "update", .state = "failed", .seconds = 2.5};
  LaneRecord lane{.device = "HOST-0", .pid = 47, .bytes = 5, .buckets_uploaded = 3, .buckets_reloaded = 2, .bounded_by = "reload"};
  lane.stages = {{"upload", 0.5, 5, 10, 40, 0.25}, {"connect", 0.25, 0, 0, std::nullopt}};
  lane.shares = {{"reload", 2, "the rank on HOST-0 (pid 47)"}};
  PushRecord push{.engine = "e", .state = "failed", .seconds = 2.25, .bytes = 7, .buckets = 4, .bucket_bytes = 2, .arena_bytes = 9,
                  .copy_runs = 6, .fan_out = "broadcast", .bounded_by = "reload", .because = "of it"};
  push.shares = lane.shares;
  push.steps = {{"arena", 0.125, 0, 0, std::nullopt}};
  push.lanes = {lane};
  push.slowest = {{"HOST-0", "reload", 1, 5, 1.5}};
  push.came_to = "half of it";
  push.failed = "the rank on HOST-0 (pid 47)";
  push.error = an_error();
  record.engines = {push};
  LoadRecord load{.seconds = 1, .bytes = 8, .bounded_by = "hash", .because = "so"};
  load.shares = {{"hash", 1, ""}};
  load.stages = {{"hash", 1, 8, 8, 1.5}};
  load.storage_bytes = 6;
  load.page_cache_bytes = 2;
  load.came_to = "there";
  record.load = load;
  record.notes = {"no peak measured: ckptctl probe"};
  return record;
}

template <class T>
std::string complaint(const Result<T>& result) {
  REQUIRE_FALSE(result);
  CHECK(result.error().kind == ErrorKind::corrupt);
  return result.error().sentence;
}

}  // namespace

TEST_CASE("an error survives the journey") {
  auto wire = to_json(an_error());
  CHECK(wire["error"]["kind"] == "peer_failed");
  CHECK(wire["error"]["facts"]["job"] == "update-3");
  auto error = parse_error(wire);
  CHECK(error.kind == ErrorKind::peer_failed);
  CHECK(error.sentence == an_error().sentence);
  CHECK(error.vendor == an_error().vendor);
  CHECK(error.facts == an_error().facts);

  auto plain = to_json(Error{ErrorKind::busy, "s"});
  CHECK_FALSE(plain["error"].contains("vendor"));
  CHECK_FALSE(plain["error"].contains("facts"));
}

TEST_CASE("what is no error object becomes an error that quotes it") {
  for (auto text :
       {"null", "[]", "7", "\"<html>502</html>\"", R"({"error":"Unauthorized"})",
        R"({"error":{"kind":5,"sentence":"x"}})", R"({"error":{"kind":"busy"}})", R"({"detail":"Not Found"})"}) {
    auto value = json::parse(text);
    auto error = parse_error(value);
    CHECK(error.kind == ErrorKind::internal);
    auto quoted = value.is_string() ? value.get<std::string>() : value.dump();
    CHECK(error.sentence.find(quoted) != std::string::npos);
  }
  CHECK(parse_error(json("\xff\xfe")).kind == ErrorKind::internal);
  CHECK(parse_error(json(std::string(1 << 20, 'x'))).sentence.size() < 1000);
  CHECK(parse_error(json::parse(R"({"error":{"kind":"of tomorrow","sentence":"s"}})")).kind == ErrorKind::internal);
}

TEST_CASE("a job survives the journey") {
  auto wire = to_json(a_job());
  CHECK(wire["result"]["seconds"] == 1.5);
  CHECK(wire["started"] == "2030-02-28T12:00:00Z");
  CHECK(wire["ended"] == "2030-02-28T12:01:01Z");
  CHECK(wire["error"]["sentence"] == an_error().sentence);
  auto job = parse_job(wire);
  REQUIRE(job);
  CHECK(to_json(*job) == wire);
  CHECK(job->total_bytes == ~std::uint64_t{0});
  CHECK(job->ended == kNoon + std::chrono::seconds(61));
  REQUIRE(job->stages.size() == 2);
  CHECK(job->stages[0].name == "read");
  CHECK(job->stages[0].seconds == 1.25);
  CHECK(job->stages[0].bytes == 7);
  for (auto broken : {R"([7])", R"({})", R"([{"name":"read","seconds":"1"}])"}) {
    auto damaged = wire;
    damaged["stages"] = json::parse(broken);
    CHECK(complaint(parse_job(damaged)).find("stages") != std::string::npos);
  }

  Job plain;
  plain.id = "load-1";
  plain.state = "running";
  auto running = to_json(plain);
  for (auto absent : {"error", "result", "ended", "stages"}) CHECK_FALSE(running.contains(absent));
  CHECK_FALSE(parse_job(running)->ended);

  plain.result = "{broken";
  auto odd = to_json(plain);
  CHECK(odd["result"] == "{broken");
  CHECK(parse_job(odd)->result == "{broken");
}

TEST_CASE("what a job has to hand out survives the journey") {
  Job job;
  job.id = "update-1";
  job.state = "running";
  job.engines = {{.engine = "e", .zmq_handles = {{"HOST-0", "ipc:///r/a"}, {"HOST-1", "ipc:///r/b"}}}};
  auto wire = to_json(job);
  CHECK(wire["zmq_handles"] == json{{"HOST-0", "ipc:///r/a"}, {"HOST-1", "ipc:///r/b"}});
  CHECK(wire["engines"] == json::array({{{"engine", "e"}, {"zmq_handles", wire["zmq_handles"]}}}));
  auto one = parse_job(wire);
  REQUIRE(one);
  CHECK(to_json(*one) == wire);

  // Engines may share a device: those of several are not thrown together.
  job.engines.push_back({.engine = "f", .error = an_error()});
  auto both = to_json(job);
  CHECK_FALSE(both.contains("zmq_handles"));
  CHECK(both["engines"][1]["zmq_handles"] == json::object());
  CHECK(both["engines"][1]["error"]["sentence"] == an_error().sentence);
  auto parsed = parse_job(both);
  REQUIRE(parsed);
  CHECK(to_json(*parsed) == both);

  wire["engines"][0]["zmq_handles"]["HOST-0"] = 7;
  CHECK(complaint(parse_job(wire)).find("zmq_handles") != std::string::npos);
}

TEST_CASE("a version survives the journey, tensors only when they are there") {
  Version version{.name = "Qwen/Qwen3",
                  .version = "7",
                  .state = "resident",
                  .source_uri = "file:///m",
                  .job = "load-1",
                  .identity = "abc",
                  .schema = "def",
                  .tensor_count = 2,
                  .tensor_bytes = 10,
                  .store_bytes = 4096,
                  .kept = true,
                  .leased_by = {"update-3"},
                  .error = an_error(),
                  .since = kNoon,
                  .tensors = {}};
  CHECK_FALSE(to_json(version).contains("tensors"));
  version.tensors = {{.name = "w", .dtype = "BF16", .shape = {2, 0, 3}, .bytes = 0, .digest = "00"},
                     {.name = "scalar", .dtype = "F32", .shape = {}, .bytes = 4, .digest = "01"}};
  auto wire = to_json(version);
  CHECK(wire["source"]["uri"] == "file:///m");
  CHECK(wire["tensors"][1]["shape"] == json::array());
  auto again = parse_version(wire);
  REQUIRE(again);
  CHECK(to_json(*again) == wire);
  CHECK(again->tensors[0].shape == std::vector<std::uint64_t>{2, 0, 3});
}

TEST_CASE("engine, status and preview survive the journey") {
  auto engine = parse_engine(to_json(an_engine()));
  REQUIRE(engine);
  CHECK(to_json(*engine) == to_json(an_engine()));
  CHECK(engine->poisoned == "rank died");

  Status status{.daemon_version = "1",
                .pid = 77,
                .started = kNoon,
                .ready = false,
                .preloads = 3,
                .not_ready = {"n@1 is loading"},
                .warnings = {"n: no fallback"},
                .prefault = {"background", "ended", 9, 10, "no memory"},
                .budget_bytes = 1,
                .segment_bytes = 2,
                .lent_bytes = 3,
                .idle_bytes = 4,
                .locked_bytes = 5,
                .huge_page_bytes = 6,
                .lock = "try",
                .versions_resident = 7,
                .devices = {{.uuid = "HOST-0", .kind = "host", .free_bytes = 8, .arena_bytes = 9, .kept_arena_bytes = 10,
                             .quarantined_bytes = 11,
                             .quarantine = {{.bytes = 11, .engine = "e", .pids = {12, 0}, .why = "w", .since = Time{std::chrono::seconds(13)}}}},
                            {.uuid = "GPU-1", .kind = "cuda", .lost = LostDevice{Time{std::chrono::seconds(14)}, "y", "z"}}},
                .engines = {an_engine()},
                .running_jobs = {"load-1"},
                .in_custody = {"HOST-1 of e"},
                .last_reload = Reload{kNoon, {"log_level"}, {"store.budget"}, "no"}};
  auto status_again = parse_status(to_json(status));
  REQUIRE(status_again);
  CHECK(to_json(*status_again) == to_json(status));
  CHECK(status_again->devices[0].free_bytes == 8);
  CHECK(status_again->devices[0].arena_bytes == 9);
  CHECK(status_again->devices[0].kept_arena_bytes == 10);
  CHECK(status_again->devices[0].quarantined_bytes == 11);
  REQUIRE(status_again->devices[0].quarantine.size() == 1);
  const auto& held = status_again->devices[0].quarantine[0];
  CHECK(held.bytes == 11);
  CHECK(held.engine == "e");
  CHECK(held.pids == std::vector<int>{12, 0});
  CHECK(held.why == "w");
  CHECK(held.since == Time{std::chrono::seconds(13)});
  CHECK_FALSE(status_again->devices[0].lost);
  REQUIRE(status_again->devices[1].lost);
  CHECK(status_again->devices[1].lost->since == Time{std::chrono::seconds(14)});
  CHECK(status_again->devices[1].lost->why == "y");
  CHECK(status_again->devices[1].lost->vendor == "z");
  CHECK_FALSE(to_json(status)["devices"][0].contains("lost"));
  CHECK(status_again->preloads == 3);
  CHECK(status_again->last_reload->applied == status.last_reload->applied);
  CHECK(status_again->last_reload->needs_restart == status.last_reload->needs_restart);
  CHECK(status_again->last_reload->failed == "no");
  CHECK(status_again->prefault.why == "no memory");

  UpdatePreview preview{.checkpoint = "n@1",
                        .engines = {{.engine = "e",
                                     .fan_out = "broadcast",
                                     .devices = {"HOST-0"},
                                     .buckets = 1,
                                     .bucket_bytes = 2,
                                     .arena_bytes = 3,
                                     .tensor_bytes = 4,
                                     .tensors = 5,
                                     .copy_runs = 6,
                                     .serving = "n@0",
                                     .warnings = {"w"}}}};
  auto preview_again = parse_update_preview(to_json(preview));
  REQUIRE(preview_again);
  CHECK(to_json(*preview_again) == to_json(preview));
  CHECK(preview_again->engines[0].copy_runs == 6);
}

TEST_CASE("a newer daemon's members are ignored, an older one's absence too") {
  auto wire = to_json(a_job());
  wire["colour"] = {{"deep", {1, 2}}};
  CHECK(parse_job(wire));
  auto least = parse_job(json::parse(R"({"id":"load-1","state":"running"})"));
  REQUIRE(least);
  CHECK(least->total_bytes == 0);
}

TEST_CASE("an answer of the wrong shape is corrupt and the member named") {
  CHECK(complaint(parse_job(json::array())).find("object") != std::string::npos);
  CHECK(complaint(parse_job(json{{"state", "running"}})).find("'id'") != std::string::npos);
  auto wire = to_json(a_job());
  wire["done_bytes"] = -1;
  CHECK(complaint(parse_job(wire)).find("done_bytes") != std::string::npos);
  wire = to_json(a_job());
  wire["started"] = "yesterday";
  CHECK(complaint(parse_job(wire)).find("started") != std::string::npos);
  CHECK(complaint(parse_status(json{{"daemon_version", "1"}, {"ready", true}, {"engines", {{{"name", 5}}}}}))
            .find("engines") != std::string::npos);
  CHECK(complaint(parse_status(json{{"daemon_version", "1"}, {"ready", true}, {"pid", 1u << 31}})).find("pid") !=
        std::string::npos);
  CHECK(complaint(parse_version(json{{"name", "n"}, {"version", "1"}, {"state", "s"}, {"tensors", "all"}}))
            .find("tensors") != std::string::npos);
  CHECK(complaint(parse_update_preview(json{{"engines", json::array()}})).find("checkpoint") != std::string::npos);
  CHECK(complaint(parse_engine(json(nullptr))).find("object") != std::string::npos);
}

TEST_CASE("every prefix and every flipped byte of an answer is read or refused, never more") {
  auto text = to_json(a_job()).dump();
  for (std::size_t i = 0; i < text.size(); ++i)
    for (int flip : {1, 4, 0x20, 0x80}) {
      auto damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      auto value = json::parse(damaged, nullptr, false);
      if (value.is_discarded()) continue;
      auto job = parse_job(value);
      if (!job) CHECK_FALSE(job.error().sentence.empty());
    }
}

TEST_CASE("times are RFC 3339 in UTC, in seconds") {
  CHECK(show_time(Time{}) == "1970-01-01T00:00:00Z");
  CHECK(show_time(Time{std::chrono::milliseconds(-1)}) == "1969-12-31T23:59:59Z");
  CHECK(show_time(kNoon + std::chrono::milliseconds(999)) == "2030-02-28T12:00:00Z");
  CHECK(parse_time("2030-02-28T12:00:00Z") == kNoon);
  CHECK(parse_time("2028-02-29T23:59:59Z"));
  for (auto wrong :
       {"", "2030-02-28", "2030-02-28T12:00:00", "2030-02-29T12:00:00Z", "2030-13-01T00:00:00Z", "2030-00-01T00:00:00Z",
        "2030-01-01T24:00:00Z", "2030-01-01T00:60:00Z", "2030-01-01T00:00:60Z", "2030-01-01 00:00:00Z",
        "2030-01-01T00:00:00+01:00", "+030-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "0000-01-01T00:00:00Z"})
    CHECK_FALSE(parse_time(wrong));
}

TEST_CASE("a record survives the journey, and its JSON has the members that programs rely on") {
  auto job = a_job();
  job.record = a_record();
  const auto wire = to_json(job);
  const auto& record = wire["record"];
  CHECK(record["engines"][0]["bounded_by"] == "reload");
  CHECK(record["engines"][0]["lanes"][0]["stages"][0] ==
        json{{"name", "upload"}, {"seconds", 0.5}, {"bytes", 5}, {"bytes_per_second", 10.0},
             {"peak_bytes_per_second", 40.0}, {"share_of_peak", 0.25}});
  for (const auto* member : {"share_of_peak", "peak_bytes_per_second"})
    CHECK_FALSE(record["engines"][0]["lanes"][0]["stages"][1].contains(member));
  CHECK(record["engines"][0]["error"]["kind"] == "peer_failed");
  CHECK(record["load"]["page_cache_bytes"] == 2);
  auto back = parse_job(json::parse(wire.dump()));
  REQUIRE(back);
  REQUIRE(back->record);
  CHECK(to_json(*back->record) == record);
  CHECK_FALSE(to_json(a_job()).contains("record"));
}

TEST_CASE("a record of another daemon is read as far as it goes") {
  auto wire = to_json(a_record());
  wire["from_the_future"] = 1;
  wire["engines"][0]["lanes"][0]["from_the_future"] = 1;
  wire["engines"][0].erase("steps");
  wire.erase("notes");
  auto record = parse_job_record(wire);
  REQUIRE(record);
  CHECK(record->engines[0].steps.empty());
  CHECK(parse_job_record(json::object()));
  for (const auto* text : {"7", R"({"engines":7})", R"({"engines":[{}]})", R"({"engines":[{"engine":"e","lanes":[{}]}]})",
                           R"({"engines":[{"engine":"e","lanes":[{"device":"d","stages":[{"name":"upload","seconds":"x"}]}]}]})",
                           R"({"load":7})", R"({"seconds":"x"})"}) {
    CAPTURE(text);
    complaint(parse_job_record(json::parse(text)));
  }
}

TEST_CASE("peaks are part of the status") {
  Status status;
  status.daemon_version = "1";
  status.peaks = {{"copy", "HOST-0", 1e10, 256, "2030-01-31T23:59:59Z"}, {"hash", "", 8e9, 256, "2030-01-31T23:59:59Z"}};
  auto back = parse_status(to_json(status));
  REQUIRE(back);
  REQUIRE(back->peaks.size() == 2);
  CHECK(back->peaks[0].device == "HOST-0");
  CHECK(back->peaks[1].bytes_per_second == 8e9);
  complaint(parse_peak(json{{"stage", "copy"}}));
}
