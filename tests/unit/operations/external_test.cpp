// Updates whose trigger somebody else holds: the fake ranks play whoever was called by them.
#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>
#include <thread>

#include "tests/unit/operations/house.h"
#include "tests/unit/operations/soon.h"

using namespace ckptd;
using namespace ckptd::tests;

namespace {

bool says(const Error& error, std::string_view part) {
  INFO(error.sentence);
  return error.sentence.find(part) != std::string::npos;
}

proto::control::UpdateRequest external(const std::string& version, std::uint64_t sessions = 1) {
  auto request = House::to(version);
  request.external = true;
  request.sessions = sessions;
  return request;
}

/// m@1 in the store, an engine that was given nothing, and ranks that do not come before they are told to.
struct Held : House {
  explicit Held(std::chrono::milliseconds connect = 60s) {
    deadlines.connect = connect;
    start();
    load_or_die("1", 1);
    add_engine("e", {"HOST-0"});
  }

  proto::control::Job end_of(const std::string& id) {
    const auto ended = operations->wait_job(id, Deadline::in(10s));
    REQUIRE(ended);
    REQUIRE(ended->state != "running");
    return *ended;
  }
};

}  // namespace

TEST_CASE("who holds the trigger is given the endpoints, and the engine is left alone") {
  Held house;
  house.endpoints.connect = false;  // so that it is seen running
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  CHECK(job->state == "running");
  CHECK(job->subject == "m@1 -> e, called by somebody else");
  REQUIRE(job->engines.size() == 1);
  CHECK(job->engines[0].engine == "e");
  CHECK_FALSE(job->engines[0].error);
  REQUIRE(job->engines[0].zmq_handles.size() == 1);
  CHECK(job->engines[0].zmq_handles.begin()->first == "as fake wants HOST-0");

  // What was handed out is in the journal.
  const auto updates = house.journal->contents().updates;
  REQUIRE(updates.size() == 1);
  REQUIRE(updates[0].sessions.size() == 1);
  CHECK(updates[0].sessions[0].endpoint == job->engines[0].zmq_handles.begin()->second);
  CHECK(house.operations->engine("e")->state == "updating");

  // The same request is the same job, and both it and a look at the job tell the handles once more.
  const auto same = house.operations->update(external("1"));
  REQUIRE(same);
  CHECK(same->id == job->id);
  CHECK(same->engines.size() == 1);
  CHECK(house.operations->job(job->id)->engines.size() == 1);
  // Another one has to wait.
  const auto other = house.operations->update(external("1", 2));
  REQUIRE_FALSE(other);
  CHECK(other.error().kind == ErrorKind::busy);

  REQUIRE(house.operations->cancel_job(job->id, false));
  const auto ended = house.end_of(job->id);
  CHECK(ended.state == "cancelled");
  CHECK(ended.engines.empty());
  CHECK(house.operations->engine("e")->poisoned.empty());  // nothing was sent
  CHECK(house.behaviour->calls == 0);
  CHECK(house.behaviour->heard.empty());
}

TEST_CASE("a rank that does not come within the connect deadline is named, and told so if it comes late") {
  Held house(500ms);
  house.endpoints.connect = false;
  const auto job = house.operations->update(external("1"));
  // It may have failed before the handles were seen: then its error is the answer.
  const auto ended = job ? house.end_of(job->id) : house.end_of(house.operations->jobs().front().id);
  CHECK(ended.state == "failed");
  CHECK(ended.error->kind == ErrorKind::timed_out);
  CHECK(says(*ended.error, "HOST-0 did not answer"));
  CHECK(ended.engines.empty());
  CHECK(house.operations->engine("e")->poisoned.empty());
  CHECK(house.endpoints.failed == 1);
  CHECK(house.behaviour->calls == 0);
  CHECK(house.behaviour->heard.empty());
}

TEST_CASE("every rank's acknowledgement of every session is the success") {
  const std::uint64_t sessions = GENERATE(1, 3);
  Held house;
  house.endpoints.returns = static_cast<int>(sessions) - 1;
  house.behaviour->gone = true;  // it is not asked for anything
  const auto job = house.operations->update(external("1", sessions));
  REQUIRE(job);
  const auto ended = house.end_of(job->id);
  INFO((ended.error ? ended.error->sentence : ""));
  CHECK(ended.state == "succeeded");
  const auto result = nlohmann::json::parse(ended.result);
  CHECK(result["engines"][0]["lanes"][0]["sessions"] == sessions);
  CHECK(house.behaviour->heard.empty());
  const auto record = house.journal->contents().engines.front();
  REQUIRE(record.serving);
  CHECK(record.serving->id == "m@1");
  CHECK(record.target->id == "m@1");
  CHECK(record.listener == ProcessId{7, 1});
  CHECK(record.label.empty());  // the caller sets it when it likes
  CHECK(house.journal->contents().updates.empty());
}

TEST_CASE("a rank that does not come for its next session is waited for and named") {
  Held house(500ms);
  const auto job = house.operations->update(external("1", 2));
  const auto ended = job ? house.end_of(job->id) : house.end_of(house.operations->jobs().front().id);
  CHECK(ended.state == "failed");
  CHECK(ended.error->kind == ErrorKind::timed_out);
  CHECK(says(*ended.error, "the rank of HOST-0 (pid 7) had 1 of 2 sessions"));
  CHECK(house.operations->engine("e")->state == "poisoned");
  CHECK(house.endpoints.failed == 1);
}

TEST_CASE("a rank that raises poisons the engine, and nobody gives it the last good version for them") {
  Held house;
  house.add_engine("e", {"HOST-0"}, "repush");
  house.load_or_die("2", 2);
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  const auto calls = house.behaviour->calls.load();
  house.endpoints.fail_reload_on = "HOST-0";
  house.endpoints.fail_reloads = 1;
  const auto job = house.operations->update(external("2"));
  // It may have failed before the handles were seen: then its error is the answer.
  const auto ended = job ? house.end_of(job->id) : house.end_of(house.operations->jobs().front().id);
  CHECK(ended.state == "failed");
  CHECK(says(*ended.error, "HOST-0 raised in load_weights"));
  CHECK(house.operations->engine("e")->state == "poisoned");
  CHECK(house.behaviour->calls == calls);
}

TEST_CASE("a job that fails before there is anything to hand out is an error, with the job") {
  Held house;
  house.endpoints.open_fails = true;
  const auto job = house.operations->update(external("1"));
  REQUIRE_FALSE(job);
  CHECK(job.error().kind == ErrorKind::no_space);
  CHECK(says(job.error(), "no descriptor is left"));
  REQUIRE(job.error().facts.size() == 1);
  CHECK(job.error().facts[0].first == "job");
  CHECK(house.operations->engine("e")->state != "updating");
}

TEST_CASE("several engines are handed out at once, also those that serve") {
  Held house;
  house.add_engine("f", {"HOST-1"});
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  house.endpoints.connect = false;
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  REQUIRE(job->engines.size() == 2);
  CHECK(job->engines[0].zmq_handles.contains("as fake wants HOST-0"));
  CHECK(job->engines[1].zmq_handles.contains("as fake wants HOST-1"));
  REQUIRE(house.operations->cancel_job(job->id, false));
  CHECK(house.end_of(job->id).state == "cancelled");
}

TEST_CASE("the daemon does not begin an update of its own while somebody else holds the trigger") {
  House house;
  house.load_or_die("1", 1);
  house.load_or_die("2", 2);
  house.behaviour->gone = true;
  house.follow_engine("e", "m@2");
  house.endpoints.connect = false;
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  house.behaviour->gone = false;  // from now on it could be given its target
  const auto refused = house.operations->change_engine("e", {"m@1"});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::busy);
  std::this_thread::sleep_for(200ms);  // many looks long
  CHECK(house.behaviour->calls == 0);
  CHECK(house.operations->engine("e")->job == job->id);
  // Nothing was sent, so the engine is brought to its own target afterwards.
  house.endpoints.connect = true;
  REQUIRE(house.operations->cancel_job(job->id, false));
  CHECK(house.operations->wait_job(job->id, Deadline::in(10s))->state == "cancelled");
  const auto deadline = Deadline::in(10s);
  while (house.operations->engine("e")->serving != "m@2" && !deadline.passed()) std::this_thread::sleep_for(5ms);
  CHECK(house.operations->engine("e")->serving == "m@2");
}

TEST_CASE("an endpoint that was handed out and not used is kept for whoever comes late") {
  Held house;
  house.endpoints.connect = false;
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  const auto open = house.journal->contents().updates;
  REQUIRE(open.size() == 1);
  CHECK(open[0].phase == journal::Phase::opening);
  REQUIRE(house.operations->cancel_job(job->id, false));
  CHECK(house.end_of(job->id).state == "cancelled");
  // Whoever was handed the endpoint may still come: it stays with the custodian.
  CHECK(house.endpoints.in_custody().size() == 1);
  CHECK(house.journal->contents().in_custody.size() == 1);
}

TEST_CASE("nobody asks an engine that others call for its checksums") {
  Held house;
  house.behaviour->set_checksums({{"tp0", {{"a", "1"}}}});
  std::atomic<int> asked = 0;
  house.behaviour->while_summing = [&] { ++asked; };
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  CHECK(house.end_of(job->id).state == "succeeded");
  CHECK(asked == 0);
  CHECK(house.run_update(House::to("1")).state == "succeeded");
  CHECK(asked == 1);  // as it is for an update of ours
}

TEST_CASE("a mixture belongs to the server that has it, also when others call that") {
  Held house;
  REQUIRE(house.run_update(House::to("1")).state == "succeeded");
  house.operations->stop_watching();  // nobody has seen that it was restarted
  house.behaviour->restart();
  house.endpoints.fail_reload_on = "HOST-0";
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  CHECK(house.end_of(job->id).state == "failed");
  const auto record = house.journal->contents().engines.front();
  CHECK_FALSE(record.poisoned.empty());
  CHECK(record.listener == ProcessId{8, 1});
  CHECK(record.lost.find("restarted") != std::string::npos);
}

TEST_CASE("what is kept of an update that succeeded, for ranks that come once more, is written down and is no failure") {
  Held house;
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  REQUIRE(house.end_of(job->id).state == "succeeded");
  CHECK(house.endpoints.failed == 0);
  const auto kept = house.endpoints.in_custody();
  REQUIRE(kept.size() == 1);
  // A successor of a killed daemon has to bind it again.
  const auto written = house.journal->contents().in_custody;
  REQUIRE(written.size() == 1);
  CHECK(written[0].endpoint == kept[0].endpoint);
  CHECK(written[0].retired);
  CHECK(house.operations->status().in_custody.empty());
  house.endpoints.close(kept[0].endpoint);
  CHECK(house.journal->contents().in_custody.empty());
}

TEST_CASE("an engine that sleeps while others give it weights holds them") {
  Held house;
  house.behaviour->set_state(fleet::Observation::State::asleep);
  const auto job = house.operations->update(external("1"));
  REQUIRE(job);
  REQUIRE(house.end_of(job->id).state == "succeeded");
  const int looks = house.behaviour->looks;
  REQUIRE(soon([&] { return house.behaviour->looks >= looks + 3; }));
  CHECK(house.journal->contents().engines.front().lost.empty());
  house.behaviour->set_state(fleet::Observation::State::serving);
  REQUIRE(soon([&] { return house.operations->engine("e")->state == "serving"; }));
  CHECK(house.behaviour->calls == 0);
  // What sleeps from now on has lost it.
  REQUIRE(soon([&] { return !house.journal->contents().engines.front().given_asleep; }));
  house.behaviour->set_state(fleet::Observation::State::asleep);
  REQUIRE(soon([&] { return !house.journal->contents().engines.front().lost.empty(); }));
}
