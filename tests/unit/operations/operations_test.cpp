#include "daemon/operations/operations.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

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
  CHECK(engine.state == "idle");
  CHECK(engine.serving == "m@1");
  CHECK(engine.target == "m@1");
  CHECK(house.behaviour->last_call.weight_version == "1");
  CHECK(house.behaviour->last_call.endpoints.size() == 2);
  CHECK(house.journal->contents().updates.empty());

  house.start();
  engine = *house.operations->engine("e");
  CHECK(engine.serving == "m@1");
  CHECK(engine.state == "idle");
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
  CHECK(house.operations->engine("e")->state == "idle");
}

TEST_CASE("an engine that says no, or yes for nothing, has not been updated") {
  House house;
  house.load_or_die("1", 1);
  house.add_engine();
  house.endpoints.connect = false;
  SECTION("it refuses at once") {
    house.behaviour->refuses = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::peer_failed);
    CHECK(says(*job.error, "it said no"));
  }
  SECTION("it claims success, but no rank came") {
    house.behaviour->early_success = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::peer_failed);
    CHECK(says(*job.error, "0 of 2"));
  }
  SECTION("nobody comes and nobody answers") {
    house.behaviour->never_answers = true;
    auto job = house.run_update(House::to("1"));
    REQUIRE(job.error);
    CHECK(job.error->kind == ErrorKind::timed_out);
  }
  auto engine = *house.operations->engine("e");
  CHECK(engine.serving.empty());
  CHECK(engine.state == "idle");  // nothing was sent: no mixture
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
  CHECK(house.endpoints.opened == 0);
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
  CHECK(house.operations->engine("clean")->state == "idle");
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
  house.behaviour->never_answers = true;
  auto first = house.operations->update(House::to("1"));
  REQUIRE(first);

  auto same = house.operations->update(House::to("1"));
  REQUIRE(same);
  CHECK(same->id == first->id);

  auto other = house.operations->update(House::to("2"));
  REQUIRE_FALSE(other);
  CHECK(other.error().kind == ErrorKind::conflict);
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
  CHECK(house.operations->engine("e")->state == "idle");

  house.endpoints.connect = true;
  house.behaviour->never_answers = false;
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
  const auto deadline = Deadline::in(5s);
  while (house.operations->status().not_ready.size() != 1 && !deadline.passed()) std::this_thread::sleep_for(5ms);
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
