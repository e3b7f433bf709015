#include "daemon/operations/operations.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <mutex>
#include <thread>

#include "tests/support/log_listener.h"
#include "tests/unit/operations/house.h"

using namespace ckptd;
using namespace ckptd::operations;
using tests::House;
using namespace std::chrono_literals;

namespace {

bool says(const Error& error, std::string_view word) { return error.sentence.find(word) != std::string::npos; }

}  // namespace

TEST_CASE("an update that everybody confirms is recorded as served") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  auto job = house.run_update(House::to("1"));
  CHECK(job.state == "succeeded");
  auto engine = *house.operations->engine("e");
  CHECK(engine.state == "serving");
  CHECK(engine.serving == "m@1");
  CHECK(engine.target == "m@1");
  CHECK(house.behaviour->last_call.weight_version == "1");
  CHECK(house.behaviour->last_call.endpoints.size() == 2);
  CHECK(house.journal->contents().updates.empty());

  house.start();
  engine = *house.operations->engine("e");
  CHECK(engine.serving == "m@1");
  CHECK(engine.state == "serving");
}

TEST_CASE("a job tells its stages, of all its engines, and also when it failed") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine("e0", {"HOST-0"});
  house.add_engine("e1", {"HOST-1"});
  const auto bytes_of = [](const api::Job& job, std::string_view name) {
    const auto at = std::ranges::find(job.stages, name, &api::StageTime::name);
    REQUIRE(at != job.stages.end());
    return at->bytes;
  };
  const auto names = [](const api::Job& job) {
    std::vector<std::string> each;
    for (const auto& stage : job.stages) each.push_back(stage.name);
    std::ranges::sort(each);
    return each;
  };
  const std::vector<std::string> all{"answer", "arena", "connect", "finish", "journal", "open",
                                     "pause",  "ping",  "plan",    "push",   "reload",  "upload"};
  auto job = house.run_update(House::to("1"));
  REQUIRE(job.state == "succeeded");
  CHECK(names(job) == all);
  const auto model_bytes = (*house.operations->version("m", "1", false)).tensor_bytes;
  CHECK(bytes_of(job, "upload") == 2 * model_bytes);
  CHECK(bytes_of(job, "reload") == 2 * model_bytes);
  CHECK(job.result.find("first_bucket_seconds") != std::string::npos);

  house.endpoints.fail_reload_on = "HOST-1";
  job = house.run_update(House::to("1"));
  REQUIRE(job.state == "failed");
  CHECK(names(job) == all);
  CHECK(bytes_of(job, "push") >= model_bytes);  // of e0, which had all
  CHECK(bytes_of(job, "push") < 2 * model_bytes);
}

TEST_CASE("an arena is kept after a good update and freed by a bad one and by trim") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  const auto kept = [&] {
    std::uint64_t bytes = 0;
    for (const auto& device : house.operations->status().devices) {
      CHECK(device.arena_bytes == 0);
      bytes += device.kept_arena_bytes;
    }
    return bytes;
  };
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  const auto arenas = kept();
  CHECK(arenas > 0);
  house.endpoints.fail_reload_on = "HOST-1";
  REQUIRE(house.run_update(House::to("1")).state == "failed");
  CHECK(kept() == 0);
  house.endpoints.fail_reload_on.clear();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(kept() == arenas);
  CHECK(house.operations->trim().bytes >= arenas);
  CHECK(kept() == 0);
}

TEST_CASE("a rank that raises poisons the engine until a full update succeeds") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  house.endpoints.fail_reload_on = "HOST-1";
  auto job = house.run_update(House::to("1"));
  CHECK(job.state == "failed");
  REQUIRE(job.error);
  CHECK(says(*job.error, "HOST-1"));
  auto engine = *house.operations->engine("e");
  CHECK(engine.state == "poisoned");
  CHECK(engine.serving.empty());

  house.start();
  CHECK(house.operations->engine("e")->state == "poisoned");
  house.endpoints.fail_reload_on.clear();
  house.load_or_die("1", 1);
  CHECK(house.run_update(House::to("1")).state == "succeeded");
  CHECK(house.operations->engine("e")->state == "serving");
}

TEST_CASE("an engine that says no, or yes for nothing, has not been updated") {
  House house;
  house.answer_grace = 200ms;  // which two of these use up
  house.add_engine();
  house.endpoints.connect = false;
  const auto begin = [&] {
    house.start();
    house.load_or_die("1", 1);
  };
  SECTION("it refuses at once") {
    begin();
    house.behaviour->refuses = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::peer_failed);
    CHECK(says(*job.error, "it said no"));
  }
  SECTION("it claims success, but no rank came") {
    begin();
    house.behaviour->early_success = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::peer_failed);
    CHECK(says(*job.error, "0 of 2"));
  }
  SECTION("nobody comes and nobody answers") {
    house.deadlines.connect = 500ms;
    begin();
    house.behaviour->never_answers = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::timed_out);
  }
  auto engine = *house.operations->engine("e");
  CHECK(engine.serving.empty());
  CHECK(engine.state == "waiting");  // nothing was sent: no mixture
  CHECK(house.journal->contents().updates.empty());
}

TEST_CASE("an engine that is not there is not given endpoints") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  house.behaviour->gone = true;
  auto job = house.run_update(House::to("1"));
  REQUIRE(job.error);
  CHECK(job.error->kind == ErrorKind::unavailable);
  CHECK(house.behaviour->calls == 0);
  CHECK(house.endpoints.discarded == house.endpoints.opened);
  CHECK(house.journal->contents().updates.empty());
  CHECK(house.operations->engine("e")->target.empty());
}

TEST_CASE("what cannot be written down does not happen") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  std::filesystem::create_directory(house.folder / "state/state.json.new");  // in the way of every write
  auto job = house.run_update(House::to("1"));
  REQUIRE(job.error);
  CHECK(says(*job.error, "not touched"));
  CHECK(house.behaviour->calls == 0);
  CHECK(house.endpoints.discarded == 2);
  CHECK(house.operations->engine("e")->target.empty());
}

TEST_CASE("a successor marks what a dead daemon left half done, and frees its ranks") {
  House house;
  house.add_engine("touched");
  house.add_engine("clean");
  REQUIRE(house.journal->change([](journal::Contents& contents) {
    contents.updates.push_back({"update-9", "touched", "m@2", journal::Phase::pushing, {{"ipc:///a", "HOST-0"}}});
    contents.updates.push_back({"update-9", "clean", "m@2", journal::Phase::opening, {{"ipc:///b", "HOST-1"}}});
    contents.in_custody.push_back({"ipc:///c", "HOST-0"});
  }));
  for (auto* endpoint : {"ipc:///a", "ipc:///b", "ipc:///c"}) house.endpoints.keep({endpoint, "x", "HOST-0"});
  house.start();
  CHECK(house.endpoints.adopted.size() == 3);
  CHECK(house.operations->engine("touched")->state == "poisoned");
  CHECK(house.operations->engine("clean")->state == "waiting");
  CHECK(house.journal->contents().updates.empty());
  CHECK(house.journal->contents().in_custody.size() == 3);
  house.endpoints.close("ipc:///a");
  CHECK(house.journal->contents().in_custody.size() == 2);
}

TEST_CASE("repeated and colliding updates") {
  House house;
  house.load_or_die("1", 1);
  house.load_or_die("2", 2);
  house.add_engine();
  house.endpoints.connect = false;
  auto first = house.operations->update(House::to("1"));
  REQUIRE(first);

  auto same = house.operations->update(House::to("1"));
  REQUIRE(same);
  CHECK(same->id == first->id);

  auto other = house.operations->update(House::to("2"));
  REQUIRE_FALSE(other);
  CHECK(other.error().kind == ErrorKind::busy);
  CHECK(says(other.error(), first->id));

  const auto deadline = Deadline::in(5s);
  while (house.behaviour->calls == 0 && !deadline.passed()) std::this_thread::sleep_for(1ms);
  auto evicted = house.operations->evict("m", "1", false);
  REQUIRE_FALSE(evicted);
  CHECK(evicted.error().kind == ErrorKind::busy);
  CHECK(says(evicted.error(), first->id));
  CHECK(house.operations->remove_engine("e").error().kind == ErrorKind::busy);

  REQUIRE(house.operations->cancel_job(first->id, false));  // nothing was sent yet: clean
  auto ended = house.operations->wait_job(first->id, Deadline::in(10s));
  REQUIRE(ended);
  CHECK(ended->state == "cancelled");
  CHECK(house.operations->engine("e")->state == "waiting");

  house.endpoints.connect = true;
  auto keyed = House::to("2");
  keyed.idempotency_key = "k1";
  auto done = house.run_update(keyed);
  CHECK(done.state == "succeeded");
  CHECK(house.operations->update(keyed)->id == done.id);
  keyed.idempotency_key = "k2";
  CHECK(house.run_update(keyed).id != done.id);
}

TEST_CASE("what does not fit the engine is refused before it is touched") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  REQUIRE(house.load("other", house.checkpoint("other", 1, "I32"))->state == "succeeded");
  const int calls = house.behaviour->calls;

  auto refused = house.operations->update(House::to("other"));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(says(refused.error(), "I32"));
  CHECK(house.behaviour->calls == calls);
  auto forced = House::to("other");
  forced.force = true;
  CHECK(house.run_update(forced).state == "succeeded");

  house.endpoints.uncarriable = "tensor a: torch has no type for F6_E2M3";
  auto preview = house.operations->preview_update(House::to("1"));
  REQUIRE_FALSE(preview);
  CHECK(preview.error().kind == ErrorKind::unsupported);
}

TEST_CASE("an arena of a configured size is reserved at the start, before any engine has sized its cache") {
  House house;
  const auto kept = [&] {
    std::vector<std::uint64_t> bytes;
    for (const auto& device : house.operations->status().devices) bytes.push_back(device.kept_arena_bytes);
    return bytes;
  };
  CHECK(kept() == std::vector<std::uint64_t>{0, 0});
  house.arena_bytes = 1 << 20;
  house.start();
  CHECK(kept() == std::vector<std::uint64_t>{1 << 20, 1 << 20});
  house.load_or_die("1", 1);
  house.add_engine();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(kept() == std::vector<std::uint64_t>{1 << 20, 1 << 20});
}

TEST_CASE("an arena too small for the largest tensor fails dry run and update with numbers") {
  House house;
  house.arena_bytes = 1024;
  house.start();
  house.load_or_die("1", 1);
  house.add_engine();
  for (const auto& error : {house.operations->preview_update(House::to("1")).error(),
                            house.operations->update(House::to("1")).error()}) {
    CHECK(error.kind == ErrorKind::no_space);
    CHECK(says(error, "tensor a"));
  }
  CHECK(house.behaviour->calls == 0);
}

TEST_CASE("engines are chosen by checkpoint or by name") {
  House house;
  house.load_or_die("1", 1);
  auto none = house.operations->update(House::to("1"));
  REQUIRE_FALSE(none);
  CHECK(none.error().kind == ErrorKind::not_found);
  house.add_engine("e0", {"HOST-0"});
  house.add_engine("e1", {"HOST-1"});
  auto unknown = House::to("1");
  unknown.engines = {"e2"};
  CHECK(house.operations->update(unknown).error().kind == ErrorKind::not_found);
  CHECK(house.run_update(House::to("1")).state == "succeeded");
  for (auto* name : {"e0", "e1"}) CHECK(house.operations->engine(name)->serving == "m@1");
  CHECK_FALSE(house.operations->put_engine({"e3", "sglang", "http://127.0.0.1:1", "m", {"HOST-9"}}));
  CHECK_FALSE(house.operations->put_engine({"e 3", "sglang", "http://127.0.0.1:1", "m", {}}));
  CHECK(house.operations->update(House::to("7")).error().kind == ErrorKind::not_found);
}

TEST_CASE("a dry run changes nothing and tells what would happen") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  auto preview = house.operations->preview_update(House::to("1"));
  REQUIRE(preview);
  REQUIRE(preview->engines.size() == 1);
  CHECK(preview->engines[0].tensors == 2);
  CHECK(preview->engines[0].devices.size() == 2);
  CHECK(preview->engines[0].tensor_bytes == 64 * 32 * 4 + 14);
  CHECK(house.behaviour->calls == 0);
  CHECK(house.endpoints.opened == 0);
  CHECK(house.operations->engine("e")->target.empty());
}

TEST_CASE("loads: the same files again, changed files, other bytes after an eviction") {
  House house;
  const auto uri = house.checkpoint("files", 1);
  REQUIRE(house.load("1", uri)->state == "succeeded");
  CHECK(house.load("1", uri)->state == "succeeded");

  house.checkpoint("files", 2);
  auto changed = house.load("1", uri);
  REQUIRE_FALSE(changed);
  CHECK(changed.error().kind == ErrorKind::conflict);
  const auto resident = house.operations->version("m", "1", false)->identity;
  CHECK(says(changed.error(), resident));
  CHECK(std::ranges::find(changed.error().facts, std::string("found_identity"), &std::pair<std::string, std::string>::first) !=
        changed.error().facts.end());
  CHECK(house.operations->version("m", "1", false)->state == "resident");

  REQUIRE(house.operations->evict("m", "1", false));
  auto other = house.operations->load({"m", "1", uri, false, ""});
  auto error = other ? house.operations->wait_job(other->id, Deadline::in(5s))->error : std::optional(other.error());
  REQUIRE(error);
  CHECK(error->kind == ErrorKind::conflict);
  CHECK(error->facts.size() >= 2);

  REQUIRE(house.operations->evict("m", "1", true));
  CHECK(house.load("1", uri)->state == "succeeded");
}

TEST_CASE("a load that failed may be repeated, and a wrong directory is an answer and not a job to look up") {
  House house;
  auto missing = house.operations->load({"m", "1", "file:///nowhere/at/all", false, ""});
  REQUIRE_FALSE(missing);
  CHECK(missing.error().kind == ErrorKind::not_found);
  CHECK(house.load("1", house.checkpoint("good", 1))->state == "succeeded");
  auto name = house.operations->load({"../m", "1", "file:///x", false, ""});
  REQUIRE_FALSE(name);
  CHECK(name.error().kind == ErrorKind::invalid_argument);
}

TEST_CASE("readiness follows the preloads") {
  House house;
  CHECK(house.operations->status().ready);
  house.preloads = {{"m@1", house.checkpoint("good", 1), true}, {"m@2", "file:///nowhere", true}};
  house.start();
  const auto deadline = Deadline::in(10s);
  const auto is_settled = [](const api::Status& status) {  // the good one is there, the other one has failed
    return status.not_ready.size() == 1 && status.not_ready[0].find("nowhere") != std::string::npos;
  };
  while (!is_settled(house.operations->status()) && !deadline.passed()) std::this_thread::sleep_for(5ms);
  auto status = house.operations->status();
  CHECK_FALSE(status.ready);
  REQUIRE(status.not_ready.size() == 1);
  CHECK(status.not_ready[0].find("m@2") != std::string::npos);
  CHECK(status.not_ready[0].find("nowhere") != std::string::npos);
  CHECK(house.operations->version("m", "1", false)->kept);
}

TEST_CASE("files that were only touched are still the version that is resident") {
  House house;
  const auto uri = house.checkpoint("files", 1);
  REQUIRE(house.load("1", uri)->state == "succeeded");
  for (const auto& entry : std::filesystem::directory_iterator(house.folder / "files"))
    std::filesystem::last_write_time(entry.path(), std::filesystem::file_time_type::clock::now());
  auto again = house.load("1", uri);
  REQUIRE(again);
  CHECK(again->state == "succeeded");
  CHECK(again->result.find("\"already_resident\":true") != std::string::npos);
}

// ---- reload ----

namespace {

Reread reread_of(Options options, std::vector<api::EngineRequest> engines = {}) {
  return {std::move(options), std::move(engines), {"push.arena"}, {"store.budget"}, [] {}};
}

}  // namespace

TEST_CASE("a reload counts for what begins after it, and status tells its outcome") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  CHECK_FALSE(house.operations->status().last_reload);
  house.reread = [] {
    Options options;
    options.arena_bytes = 16;
    return reread_of(options);
  };
  auto reload = house.operations->reload();
  REQUIRE(reload);
  CHECK(reload->applied == std::vector<std::string>{"push.arena"});
  CHECK(reload->needs_restart == std::vector<std::string>{"store.budget"});
  CHECK(house.operations->status().last_reload->failed.empty());
  CHECK_FALSE(house.operations->preview_update(House::to("1")));  // no tensor fits into 16 bytes
}

TEST_CASE("a reload that is refused changes nothing") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  bool adopted = false;
  Options options;
  options.arena_bytes = 16;
  auto wanted = reread_of(options, {{"new", "sglang", "http://127.0.0.1:1", "m", {}}});
  wanted.adopt = [&] { adopted = true; };
  std::string culprit;
  SECTION("a file that is wrong") {
    culprit = "line 3";
    house.reread = []() -> Result<Reread> { return fail(ErrorKind::invalid_argument, "line 3 is wrong"); };
  }
  SECTION("an engine that cannot be, behind one that can") {
    culprit = "HOST-9";
    wanted.engines.push_back({"other", "sglang", "http://127.0.0.1:1", "m", {"HOST-9"}});
    house.reread = [&]() -> Result<Reread> { return wanted; };
  }
  SECTION("a preload that is no version") {
    culprit = "no version";
    wanted.options.preloads = {{"no version", "/x", true}};
    house.reread = [&]() -> Result<Reread> { return wanted; };
  }
  auto reload = house.operations->reload();
  REQUIRE_FALSE(reload);
  CHECK(reload.error().kind == ErrorKind::invalid_argument);
  CHECK(says(reload.error(), "stays as it was"));
  CHECK(says(reload.error(), culprit));
  CHECK(house.operations->status().last_reload->failed.find(culprit) != std::string::npos);
  CHECK_FALSE(adopted);
  CHECK(house.operations->engines().size() == 1);
  CHECK(house.operations->preview_update(House::to("1")));

  house.reread = [&]() -> Result<Reread> { return reread_of({}); };
  CHECK(house.operations->reload());
  CHECK(house.operations->status().last_reload->failed.empty());
}

TEST_CASE("a reload loads new preloads and registers new engines") {
  House house;
  Options options;
  options.preloads = {{"m@1", house.checkpoint("v1", 1), true}};
  house.reread = [&] { return reread_of(options, {{"new", "sglang", "http://127.0.0.1:1", "m", {}}}); };
  REQUIRE(house.operations->reload());
  CHECK(house.operations->engine("new"));
  CHECK(house.operations->status().preloads == 1);
  const auto deadline = Deadline::in(10s);
  while (!house.operations->status().ready && !deadline.passed()) std::this_thread::sleep_for(5ms);
  CHECK(house.operations->version("m", "1", false)->state == "resident");
  REQUIRE(house.operations->reload());  // the same again loads nothing again
  CHECK(house.operations->jobs().size() == 1);
}

TEST_CASE("reloads amid loads and updates disturb neither") {
  House house;
  const auto uri = house.checkpoint("v1", 1);
  house.add_engine();
  std::atomic<std::uint64_t> arena_bytes = 0;
  house.reread = [&] {
    Options options;
    options.deadlines = house.deadlines;
    options.answer_grace = house.answer_grace;
    options.bucket_bytes = 4096;
    options.arena_bytes = (++arena_bytes % 2 + 1) * 65536;  // plan and allocation must see the same one
    return reread_of(options);
  };
  std::atomic<int> reloads = 0, refusals = 0;
  std::jthread reloading([&](std::stop_token stop) {
    while (!stop.stop_requested()) {
      ++(house.operations->reload() ? reloads : refusals);
      std::this_thread::sleep_for(1ms);
    }
  });
  for (int round = 0; round < 10; ++round) {
    const auto version = std::to_string(round);
    auto loaded = house.load(version, uri);
    REQUIRE(loaded);
    REQUIRE(loaded->state == "succeeded");
    auto updated = house.run_update(House::to(version));
    INFO((updated.error ? updated.error->sentence : ""));
    REQUIRE(updated.state == "succeeded");
    REQUIRE(house.operations->evict("m", version, true));
  }
  CHECK(reloads > 0);
  CHECK(refusals == 0);
}

TEST_CASE("every ended job has a record and a trace, also one that failed or was cancelled") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  const auto good = house.run_update(House::to("1"));
  REQUIRE(good.record);
  REQUIRE(good.record->engines.size() == 1);
  const auto& push = good.record->engines[0];
  CHECK(push.state == "succeeded");
  CHECK(push.lanes.size() == 2);
  CHECK(push.lanes[0].pid == 7);
  CHECK(push.buckets > 0);
  CHECK(push.fan_out == "independent");
  CHECK_FALSE(push.bounded_by.empty());
  CHECK(push.lanes[0].bytes > 0);
  double sum = 0;
  for (const auto& share : push.shares) sum += share.seconds;
  CHECK(sum == Approx(push.seconds));
  CHECK(good.record->notes.size() == 1);  // no peak

  house.endpoints.fail_reload_on = "HOST-1";
  const auto failed = house.run_update(House::to("1"));
  REQUIRE(failed.record);
  CHECK(failed.record->state == "failed");
  CHECK(failed.record->engines[0].state == "failed");
  CHECK(failed.record->engines[0].error);
  CHECK(says({ErrorKind::internal, failed.record->engines[0].came_to}, "acknowledged"));
  house.endpoints.fail_reload_on.clear();

  house.behaviour->refuses = true;
  house.endpoints.connect = false;
  const auto refused = house.run_update(House::to("1"));
  REQUIRE(refused.record);
  CHECK(refused.record->engines[0].failed == "engine e");
  CHECK(says({ErrorKind::internal, refused.record->engines[0].came_to}, "no weights were sent"));
  house.behaviour->refuses = false;

  house.behaviour->gone = true;
  CHECK(house.run_update(House::to("1")).record->engines[0].came_to == "it ended in its step 'ping'; the engine was not touched");
  house.behaviour->gone = false;

  auto job = house.operations->update(House::to("1"));
  REQUIRE(job);
  auto early = house.operations->trace(job->id);
  REQUIRE_FALSE(early);
  CHECK(early.error().kind == ErrorKind::busy);
  REQUIRE(house.operations->cancel_job(job->id, true));
  const auto cancelled = *house.operations->wait_job(job->id, Deadline::in(10s));
  CHECK(cancelled.state == "cancelled");
  REQUIRE(cancelled.record);
  CHECK(cancelled.record->state == "cancelled");
  CHECK(cancelled.record->engines[0].state == "cancelled");

  for (const auto& each : house.operations->jobs()) {
    CHECK_FALSE(each.record);  // a list is short
    auto trace = house.operations->trace(each.id);
    REQUIRE(trace);
    CHECK(trace->job == each.id);
    CHECK_FALSE(trace->events.empty());
  }
  CHECK(house.operations->trace("update-99").error().kind == ErrorKind::not_found);
}

TEST_CASE("loads have records too: of the bytes, of a failure, of a version that was there") {
  House house;
  const auto uri = house.checkpoint("v1", 1);
  const auto first = house.load("1", uri);
  REQUIRE(first);
  REQUIRE(first->record);
  REQUIRE(first->record->load);
  CHECK(first->record->load->bytes > 0);
  double sum = 0;
  for (const auto& share : first->record->load->shares) sum += share.seconds;
  CHECK(sum == Approx(first->record->seconds));
  CHECK_FALSE(first->record->load->bounded_by.empty());
  const auto again = house.load("1", uri);
  REQUIRE(again->record);
  CHECK(again->record->notes.size() == 1);
  const auto missing = house.load("2", "file:///no/such/directory");
  REQUIRE_FALSE(missing);
  const auto id = house.operations->jobs().front().id;
  const auto failed = *house.operations->job(id);
  REQUIRE(failed.record);
  CHECK(failed.record->load->came_to == "it ended in its step 'open'");
  CHECK(house.operations->trace(id));
}

TEST_CASE("a trace whose memory newer jobs needed is told so") {
  House house;
  house.record_memory_bytes = 1;
  house.start();
  house.load_or_die("1", 1);
  const auto trace = house.operations->trace("load-1");
  REQUIRE_FALSE(trace);
  CHECK(trace.error().kind == ErrorKind::not_found);
  CHECK(says(trace.error(), "jobs.record_memory"));
}

TEST_CASE("a probe measures every device, is remembered, and is refused beside an update") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  CHECK(house.operations->status().peaks.empty());
  auto probe = house.operations->probe();
  REQUIRE(probe);
  auto ended = *house.operations->wait_job(probe->id, Deadline::in(60s));
  INFO((ended.error ? ended.error->sentence : ""));
  REQUIRE(ended.state == "succeeded");
  CHECK(house.operations->trace(probe->id).error().kind == ErrorKind::not_found);
  house.start();
  const auto peaks = house.operations->status().peaks;
  std::vector<std::pair<std::string, std::string>> of;
  for (const auto& peak : peaks) of.emplace_back(peak.stage, peak.device);
  CHECK(of == std::vector<std::pair<std::string, std::string>>{
                  {"copy", "HOST-0"}, {"copy", "HOST-1"}, {"hash", ""}, {"spread", "HOST-0"}, {"spread", "HOST-1"}});
  for (const auto& peak : peaks) CHECK(peak.bytes_per_second > 0);

  house.load_or_die("1", 1);
  CHECK(house.run_update(House::to("1")).record->notes.empty());
  house.endpoints.connect = false;
  auto update = house.operations->update(House::to("1"));
  REQUIRE(update);
  auto refused = house.operations->probe();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::busy);
  CHECK(says(refused.error(), update->id));
  house.operations->cancel_job(update->id, true);
}

TEST_CASE("peaks that are not known are measured once, by itself, without touching the store") {
  House house;
  house.probe_at_start = true;
  house.start();
  const auto deadline = Deadline::in(60s);
  while (house.operations->status().peaks.empty() && !deadline.passed()) std::this_thread::sleep_for(20ms);
  CHECK(house.operations->status().peaks.size() == 5);
  CHECK(house.operations->jobs().empty());
  CHECK(house.operations->status().idle_bytes == 0);
}

TEST_CASE("peaks of a time before copies between devices were measured hold, and the others are measured") {
  House house;
  const auto then = std::chrono::sys_seconds(1'900'000'000s);
  REQUIRE(house.peaks->remember(
      {{"copy", "HOST-0", 1, 1, then}, {"copy", "HOST-1", 1, 1, then}, {"hash", "", 1, 1, then}}));
  house.load_or_die("1", 1);
  house.add_engine();
  CHECK(house.run_update(House::to("1")).record->notes.empty());  // nothing was spread
  house.probe_at_start = true;
  house.start();
  CHECK(house.operations->status().peaks.size() == 3);
  const auto deadline = Deadline::in(60s);
  while (house.operations->status().peaks.size() < 5 && !deadline.passed()) std::this_thread::sleep_for(20ms);
  CHECK(house.operations->status().peaks.size() == 5);
}

TEST_CASE("a load tells where its time and its bytes went") {
  House house;
  const auto job = house.load("1", house.checkpoint("v1", 1));
  REQUIRE(job);
  const auto result = nlohmann::json::parse(job->result);
  CHECK((result["backend"] == "io_uring" || result["backend"] == "pread"));
  CHECK(result["disk_bytes"].get<std::uint64_t>() + result["cached_bytes"].get<std::uint64_t>() >= result["bytes"]);
  std::map<std::string, std::uint64_t> bytes;
  for (const auto& stage : job->stages) {
    CHECK(stage.seconds >= 0);
    bytes[stage.name] = stage.bytes;
  }
  REQUIRE(job->stages.size() == 4);
  CHECK(bytes["open"] == 0);
  CHECK(bytes["reserve"] > 0);
  CHECK(bytes["read"] >= result["bytes"]);
  CHECK(bytes["hash"] == result["bytes"]);
}

TEST_CASE("a load that ends early has told the stages that it came to") {
  House house;
  house.throttle = std::make_shared<prefetch::Throttle>(kMiB);
  for (int i = 0; i < 3600; ++i) house.throttle->book(kMiB, Clock::now());  // its turn comes in an hour
  house.start();
  auto job = house.operations->load({"m", "1", house.checkpoint("v1", 1), false, ""});
  REQUIRE(job);
  const auto deadline = Deadline::in(10s);
  while (house.operations->job(job->id)->stage != "reading" && !deadline.passed()) std::this_thread::sleep_for(2ms);
  REQUIRE(house.operations->cancel_job(job->id, false));
  job = house.operations->wait_job(job->id, Deadline::in(10s));
  REQUIRE(job);
  CHECK(job->state == "cancelled");
  std::vector<std::string> names;
  for (const auto& stage : job->stages) names.push_back(stage.name);
  CHECK(names == std::vector<std::string>{"open", "reserve", "read", "hash"});
  CHECK(house.store->usage().lent_bytes == 0);
}

TEST_CASE("subscribers are told what jobs, versions and engines do") {
  House house;
  std::mutex mutex;
  std::vector<api::Event> told;
  auto heard = house.operations->subscribe([&](const api::Event& event) {
    std::scoped_lock lock(mutex);
    told.push_back(event);
  });
  auto states = [&](std::string_view name) {
    std::scoped_lock lock(mutex);
    std::string text;
    for (const auto& event : told) {
      if (name_of(event.kind) != name) continue;
      if (const auto* engine = std::get_if<api::Engine>(&event.about)) text += " " + engine->state;
      if (const auto* version = std::get_if<api::Version>(&event.about)) text += " " + version->state;
      if (const auto* job = std::get_if<api::Job>(&event.about)) text += " " + job->state;
    }
    std::string once;  // a state that goes on is told again when something else about it changed
    for (std::size_t at = 0; at < text.size();) {
      auto word = text.substr(at, text.find(' ', at + 1) - at);
      if (!once.ends_with(word)) once += word;
      at += word.size();
    }
    return once;
  };
  house.load_or_die("1", 1);
  house.add_engine();
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(states("job-started") == " running");
  CHECK(states("job-ended") == " succeeded");
  CHECK(states("version-changed") == " loading resident");
  CHECK(states("engine-changed") == " waiting updating serving");

  house.endpoints.fail_reload_on = "HOST-1";
  CHECK(house.run_update(House::to("1")).state == "failed");
  CHECK(states("job-ended") == " succeeded failed");
  CHECK(states("engine-changed").ends_with(" updating poisoned"));
  REQUIRE(house.operations->set_kept("m", "1", true));
  {
    std::scoped_lock lock(mutex);
    CHECK(std::get<api::Version>(told.back().about).kept);
  }
  REQUIRE(house.operations->set_kept("m", "1", false));
  REQUIRE(house.operations->evict("m", "1", false));
  CHECK(states("version-changed").ends_with(" resident evicted"));
  REQUIRE(house.operations->evict("m", "1", true));
  CHECK(states("version-removed") == " evicted");
  REQUIRE(house.operations->remove_engine("e"));
  CHECK(states("engine-removed") == " poisoned");

  heard.reset();
  std::size_t before = 0;
  {
    std::scoped_lock lock(mutex);
    before = told.size();
  }
  house.add_engine();
  std::scoped_lock lock(mutex);
  CHECK(told.size() == before);
}

TEST_CASE("whoever joins a load that runs gets its version kept as well") {
  House house;
  house.throttle = std::make_shared<prefetch::Throttle>(kMiB);
  for (int i = 0; i < 2; ++i) house.throttle->book(kMiB, Clock::now());  // its turn comes in two seconds
  house.start();
  const auto uri = house.checkpoint("v1", 1);
  const auto first = house.operations->load({"m", "1", uri, false, ""});
  REQUIRE(first);
  const auto joined = house.operations->load({"m", "1", uri, true, ""});
  REQUIRE(joined);
  CHECK(joined->id == first->id);
  const auto again = house.operations->load({"m", "1", uri, false, ""});  // wants less, and takes nothing back
  REQUIRE(again);
  REQUIRE(house.operations->wait_job(first->id, Deadline::in(10s))->state == "succeeded");
  CHECK(house.operations->version("m", "1", false)->kept);
}

TEST_CASE("why a load or an update failed is in the log, once, and in one line") {
  std::mutex mutex;
  std::vector<std::string> lines;
  const auto count = [&](std::string_view what, std::string_view why) {
    std::scoped_lock lock(mutex);
    return std::ranges::count_if(
        lines, [&](const auto& line) { return line.starts_with(what) && line.find(why) != std::string::npos; });
  };
  const test::LogListener listener([&](std::string_view line) {
    std::scoped_lock lock(mutex);
    lines.emplace_back(line);
  });
  House house;
  house.add_engine();
  house.load_or_die("1", 1);
  CHECK_FALSE(house.load("2", "file:///no/such%0Adirectory"));
  CHECK(count("load-2: m@2: ", "no/such") == 1);
  CHECK(count("", "\n") == 0);

  house.behaviour->gone = true;
  CHECK(house.run_update(House::to("1")).state == "failed");
  CHECK(count("update-3: e: ", "nobody listens") == 1);

  house.behaviour->gone = false;
  house.behaviour->refuses = true;
  CHECK(house.run_update(House::to("1")).state == "failed");
  CHECK(count("update-4: ", "it said no") == 1);  // with what became of the engine
}

TEST_CASE("an engine's name is one that a URL leaves as it is") {
  House house;
  for (const auto* name : {".", "..", "", "a/b", "a b"}) {
    const auto put = house.operations->put_engine({.name = name, .kind = "sglang", .endpoint = "http://127.0.0.1:1",
                                                   .checkpoint = "m", .devices = {}});
    REQUIRE_FALSE(put);
    CHECK(put.error().kind == ErrorKind::invalid_argument);
  }
  house.add_engine("...");
}
