// Updates that are known to go wrong, what is remembered of one that was forced or labelled, and what is told to whoever
// holds the trigger of an engine with a draft model.
#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/unit/operations/house.h"
#include "tests/unit/operations/soon.h"

using namespace ckptd;
using namespace ckptd::operations;
using tests::engine;
using tests::House;
using tests::serves;
using tests::soon;
using namespace std::chrono_literals;

namespace {

bool says(const std::string& text, std::string_view word) {
  INFO(text);
  return text.find(word) != std::string::npos;
}

fleet::Description tells(const std::string& quantization, unsigned draft_models = 0) {
  fleet::Description about;
  about.version = "0.5.23";
  about.quantization = quantization;
  about.draft_models = draft_models;
  return about;
}

void tell(tests::FakeEngine::Behaviour& server, const fleet::Description& about) {
  std::lock_guard lock(server.mutex);
  server.about = about;
}

std::string label_of_last_call(tests::FakeEngine::Behaviour& server) {
  std::lock_guard lock(server.mutex);
  return server.last_call.weight_version;
}

/// m@1 and m@2, and a server that makes eight-bit floats of them.
struct Troubled : House {
  Troubled() {
    load_or_die("1", 1);
    load_or_die("2", 2);
    tell(*behaviour, tells("fp8"));
  }

  bool is_described(const std::string& name = "e") const { return engine(*this, name).server == "0.5.23"; }

  static api::UpdateRequest forced(const std::string& version) {
    auto request = to(version);
    request.force = true;
    return request;
  }
};

const char* const kTyped = "ckptctl update m@2 --engine e --force";

}  // namespace

TEST_CASE("what is known to go wrong is refused before the engine is touched, and goes on when it is forced") {
  Troubled house;
  house.add_engine();
  REQUIRE(soon([&] { return house.is_described(); }));
  const auto refused = house.operations->update(House::to("2"));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(says(refused.error().sentence, "sgl-project/sglang#30749"));
  CHECK(says(refused.error().sentence, kTyped));
  CHECK_FALSE(house.operations->preview_update(House::to("2")));
  CHECK(house.behaviour->heard.empty());

  const auto preview = house.operations->preview_update(Troubled::forced("2"));
  REQUIRE(preview);
  REQUIRE(preview->engines.front().warnings.size() == 1);
  CHECK(says(preview->engines.front().warnings.front(), "sglang-fp8"));
  const auto job = house.run_update(Troubled::forced("2"));
  CHECK(job.state == "succeeded");
  const auto warnings = nlohmann::json::parse(job.result)["engines"][0]["warnings"];
  REQUIRE(warnings.size() == 1);
  CHECK(says(warnings[0], "it was forced: SGLang is reported to load this wrongly"));
  const auto kept = house.operations->job(job.id);
  REQUIRE((kept && kept->record));
  CHECK(std::ranges::any_of(kept->record->notes, [](const auto& note) { return note.find("e: it was forced") == 0; }));
  const auto shown = engine(house);
  CHECK(shown.target_forced);
  REQUIRE(shown.warnings.size() == 1);
  CHECK(says(shown.warnings.front(), "its target was forced"));
  // Once is not for ever: the next version is asked for again.
  CHECK_FALSE(house.operations->update(House::to("1")));
}

TEST_CASE("a server that was not looked at yet is asked in the job, and not touched") {
  Troubled house;
  house.add_engine();
  REQUIRE(soon([&] { return house.is_described(); }));
  // Of another process, what the last one told says nothing: whoever comes first finds out.
  tell(*house.behaviour, tells(""));
  house.behaviour->restart();
  REQUIRE(soon([&] { return house.operations->preview_update(House::to("2")).has_value(); }));
  tell(*house.behaviour, tells("fp8"));
  house.behaviour->restart();
  const auto job = house.operations->update(House::to("2"));
  if (job) {
    const auto ended = house.operations->wait_job(job->id, Deadline::in(10s));
    REQUIRE((ended && ended->error));
    CHECK(ended->error->kind == ErrorKind::conflict);
    CHECK(says(ended->error->sentence, kTyped));
    CHECK(engine(house).poisoned.empty());
  } else {
    CHECK(job.error().kind == ErrorKind::conflict);
  }
  CHECK(house.behaviour->calls == 0);
  CHECK(house.behaviour->heard.empty());
}

TEST_CASE("an engine that may not be brought to its target by itself says why, and what to type") {
  Troubled house;
  house.follow_engine("e", "m@2");
  REQUIRE(soon([&] { return engine(house).next == "tell"; }));
  auto shown = engine(house);
  CHECK(shown.state == "waiting");
  CHECK(says(shown.why, "is not given m@2 by itself"));
  CHECK(says(shown.why, kTyped));
  std::this_thread::sleep_for(100ms);  // many looks, none of which does anything
  CHECK(house.behaviour->calls == 0);
  CHECK(engine(house).last_error.empty());

  REQUIRE(house.run_update(Troubled::forced("2")).state == "succeeded");
  REQUIRE(soon([&] { return serves(house, "m@2"); }));
  // At night: nobody is there to type it again.
  const int calls = house.behaviour->calls;
  house.behaviour->restart();
  REQUIRE(soon([&] { return house.behaviour->calls == calls + 1 && serves(house, "m@2"); }));
  house.start();  // and it is persisted
  house.load_or_die("2", 2);
  house.behaviour->restart();
  REQUIRE(soon([&] { return house.behaviour->calls == calls + 2 && serves(house, "m@2"); }));
  CHECK(engine(house).target_forced);

  // Another target was not forced.
  house.load_or_die("1", 1);
  REQUIRE(house.operations->change_engine("e", {"m@1"}));
  REQUIRE(soon([&] { return engine(house).next == "tell"; }));
  shown = engine(house);
  CHECK(shown.ready);  // with what it has
  CHECK_FALSE(shown.target_forced);
  // Back to what was: that had been.
  REQUIRE(house.operations->change_engine("e", {"m@2"}));
  CHECK(engine(house).target_forced);
}

TEST_CASE("what was forced once is rolled back to, and what was not is asked for") {
  Troubled house;
  house.add_engine();
  REQUIRE(soon([&] { return house.is_described(); }));
  REQUIRE(house.run_update(Troubled::forced("1")).state == "succeeded");
  REQUIRE(house.run_update(Troubled::forced("2")).state == "succeeded");
  auto job = house.operations->roll_back({});
  REQUIRE(job);
  CHECK(house.operations->wait_job(job->id, Deadline::in(10s))->state == "succeeded");
  CHECK(engine(house).serving == "m@1");
  CHECK(engine(house).target_forced);

  // As a ckptd wrote it that asked nobody.
  REQUIRE(house.journal->change([](journal::Contents& contents) {
    for (auto& each : contents.engines) each.previous->forced = false;
  }));
  const auto refused = house.operations->roll_back({});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(engine(house).target == "m@1");
  job = house.operations->roll_back({.engines = {}, .force = true, .idempotency_key = {}});
  REQUIRE(job);
  CHECK(house.operations->wait_job(job->id, Deadline::in(10s))->state == "succeeded");
  CHECK(engine(house).target == "m@2");
  CHECK(engine(house).target_forced);
}

TEST_CASE("the label of an update is used again for the same target, for a rollback and for the last good version") {
  House house;
  house.load_or_die("1", 1);
  house.load_or_die("2", 2);
  house.follow_engine();
  auto labelled = House::to("1");
  labelled.weight_version = "step-120";
  REQUIRE(house.run_update(labelled).state == "succeeded");
  CHECK(label_of_last_call(*house.behaviour) == "step-120");
  CHECK(engine(house).target_label == "step-120");
  REQUIRE(soon([&] { return serves(house, "m@1"); }));

  // By itself, also after a restart of the daemon.
  for (const bool daemon_too : {false, true}) {
    if (daemon_too) {
      house.start();
      house.load_or_die("1", 1);
      house.load_or_die("2", 2);
    }
    const int calls = house.behaviour->calls;
    house.behaviour->restart();
    REQUIRE(soon([&] { return house.behaviour->calls == calls + 1 && serves(house, "m@1"); }));
    CHECK(label_of_last_call(*house.behaviour) == "step-120");
  }

  // The last good one of an update that leaves a mixture.
  house.endpoints.fail_reload_on = "HOST-0";
  house.endpoints.fail_reloads = 1;
  const auto failed = house.run_update(House::to("2"));
  CHECK(says(failed.error->sentence, "it was given m@1 again"));
  CHECK(label_of_last_call(*house.behaviour) == "step-120");
  CHECK(engine(house).label == "step-120");

  // An update by hand says its label itself.
  house.endpoints.fail_reload_on = "";
  REQUIRE(house.run_update(House::to("2")).state == "succeeded");
  CHECK(label_of_last_call(*house.behaviour) == "2");
  CHECK(engine(house).target_label.empty());
  auto job = house.operations->roll_back({});
  REQUIRE(job);
  CHECK(house.operations->wait_job(job->id, Deadline::in(10s))->state == "succeeded");
  CHECK(label_of_last_call(*house.behaviour) == "step-120");
  CHECK(engine(house).target_label == "step-120");
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  CHECK(label_of_last_call(*house.behaviour) == "1");
  CHECK(engine(house).target_label.empty());
}

TEST_CASE("whoever holds the trigger is told that a draft model needs sessions of its own") {
  const unsigned draft_models = GENERATE(0U, 1U, 3U);
  const std::uint64_t sessions = GENERATE(1U, 2U);
  const bool was_looked_at = GENERATE(true, false);
  House house;
  house.load_or_die("1", 1);
  tell(*house.behaviour, tells("", draft_models));
  house.behaviour->stalls = !was_looked_at;
  house.add_engine("e", {"HOST-0"});
  if (was_looked_at) REQUIRE(soon([&] { return engine(house).server == "0.5.23"; }));
  house.endpoints.connect = false;
  auto request = House::to("1");
  request.external = true;
  request.sessions = sessions;
  const auto job = house.operations->update(request);
  REQUIRE(job);
  REQUIRE(job->engines.size() == 1);
  REQUIRE(house.operations->cancel_job(job->id, true));
  const auto ended = house.operations->wait_job(job->id, Deadline::in(10s));
  REQUIRE((ended && ended->record));
  const auto& notes = ended->record->notes;
  const bool noted = std::ranges::any_of(notes, [](const auto& note) { return note.find("draft model") != note.npos; });
  const auto& warnings = job->engines.front().warnings;
  INFO(draft_models << " draft models, " << sessions << " sessions");
  if (sessions > draft_models) {
    CHECK(warnings.empty());
    CHECK_FALSE(noted);
    return;
  }
  REQUIRE(warnings.size() == 1);
  CHECK(says(warnings.front(), fmt::format("say --sessions {}", draft_models + 1)));
  CHECK(noted);
}

TEST_CASE("a server that cannot be asked delays nobody who holds its trigger") {
  House house;
  house.load_or_die("1", 1);
  tell(*house.behaviour, tells("", 1));
  house.behaviour->gone = true;
  house.add_engine("e", {"HOST-0"});
  auto request = House::to("1");
  request.external = true;
  const auto job = house.operations->update(request);
  REQUIRE(job);
  REQUIRE((job->engines.size() == 1 || job->state == "succeeded"));
  if (!job->engines.empty()) CHECK(job->engines.front().warnings.empty());
  CHECK(house.operations->wait_job(job->id, Deadline::in(10s))->state == "succeeded");
}

TEST_CASE("a success that came before the sessions of a draft model is told to be none of that") {
  House house;
  house.load_or_die("1", 1);
  tell(*house.behaviour, tells("", 1));
  house.add_engine();
  REQUIRE(soon([&] { return engine(house).server == "0.5.23"; }));
  const bool comes = GENERATE(false, true);
  house.endpoints.returns = comes ? 1 : 0;
  const auto job = house.run_update(House::to("1"));
  REQUIRE(job.state == "succeeded");
  CHECK((job.result.find("1 draft model, and answered success before") == std::string::npos) == comes);
}
