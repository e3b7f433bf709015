#include "daemon/operations/operations.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <mutex>
#include <thread>

#include "common/units.h"
#include "daemon/collective/local/local_group.h"
#include "daemon/device/host/host_device.h"
#include "daemon/operations/make.h"
#include "tests/support/checkpoint_files/folder.h"
#include "tests/support/checkpoint_files/layouts.h"
#include "tests/unit/operations/fakes.h"

using namespace ckptd;
using namespace ckptd::operations;
using namespace std::chrono_literals;

namespace {

/// Real rooms around fake ranks and a fake engine.
struct House {
  House() {
    for (unsigned i = 0; i < 2; ++i) devices.push_back(device::host::make_host_device(i));
    for (auto& each : devices) raw.push_back(each.get());
    store = *store::Store::create({.budget_bytes = 64 * kMiB, .lock = store::LockPolicy::off, .huge_pages = false}, raw);
    deadlines = {1500ms, 2s, 2s, 2s, 2s};
    start();
  }

  /// Also what a restart is: the journal and the endpoints are what a successor finds.
  void start() {
    operations.reset();
    jobs.reset();
    journal.reset();
    catalogue = std::make_unique<catalogue::Catalogue>();
    journal = *journal::Journal::open(folder / "state");
    jobs = std::make_unique<jobs::Registry>(50);
    Options options;
    options.deadlines = deadlines;
    options.answer_grace = 200ms;
    options.bucket_bytes = 4096;
    options.arena_bytes = arena_bytes;
    options.preloads = preloads;
    operations = make_operations(
        {*catalogue, *store, *jobs, *journal, endpoints, raw, collective::local::make_group,
         [this](const std::string&, const std::string&, const std::string&) -> Result<std::unique_ptr<fleet::Engine>> {
           return std::make_unique<tests::FakeEngine>(behaviour, endpoints);
         }},
        options);
  }

  ~House() {
    jobs->shutdown();
    operations.reset();
  }

  std::string checkpoint(const std::string& name, std::uint64_t seed, const std::string& dtype = "F32") {
    tests::write_checkpoint(folder / name,
                            {{tests::random_tensor("a", dtype, {64, 32}, seed), tests::random_tensor("b", "BF16", {7}, seed)}},
                            false);
    return "file://" + (folder / name).string();
  }

  Result<api::Job> load(const std::string& version, const std::string& uri) {
    auto job = operations->load({"m", version, uri, false, ""});
    if (!job) return job;
    return operations->wait_job(job->id, Deadline::in(10s));
  }

  void load_or_die(const std::string& version, std::uint64_t seed) {
    auto job = load(version, checkpoint("v" + version, seed));
    REQUIRE(job);
    REQUIRE(job->state == "succeeded");
  }

  void add_engine(const std::string& name = "e", std::vector<std::string> devices = {}) {
    REQUIRE(operations->put_engine({name, "sglang", "http://127.0.0.1:1", "m", std::move(devices)}));
  }

  static api::UpdateRequest to(const std::string& version) {
    api::UpdateRequest request;
    request.name = "m";
    request.version = version;
    return request;
  }

  api::Job run_update(const api::UpdateRequest& request) {
    auto job = operations->update(request);
    REQUIRE(job);
    auto ended = operations->wait_job(job->id, Deadline::in(10s));
    REQUIRE(ended);
    REQUIRE(ended->state != "running");
    return *ended;
  }

  tests::Folder folder;
  std::vector<std::unique_ptr<device::Device>> devices;
  std::vector<device::Device*> raw;
  tests::FakeEndpoints endpoints;
  std::shared_ptr<tests::FakeEngine::Behaviour> behaviour = std::make_shared<tests::FakeEngine::Behaviour>();
  pipeline::Deadlines deadlines;
  std::uint64_t arena_bytes = 0;
  std::vector<Preload> preloads;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<catalogue::Catalogue> catalogue;
  std::unique_ptr<journal::Journal> journal;
  std::unique_ptr<jobs::Registry> jobs;
  std::unique_ptr<Operations> operations;
};

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
  CHECK(states("engine-changed") == " idle updating idle");

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
