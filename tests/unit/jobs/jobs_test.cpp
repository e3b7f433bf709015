#include "daemon/jobs/jobs.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

namespace ckptd::jobs {
namespace {

using namespace std::chrono_literals;

// Catch2's assertions belong to the main thread alone: bodies note what they saw, and the test looks at it afterwards.

/// Far enough that only a hang reaches it.
Deadline soon() { return Deadline::in(60s); }

Request request(std::string kind, std::string key = {}, std::string idempotency_key = {}) {
  return {std::move(kind), "llama@3", std::move(key), std::move(idempotency_key)};
}

Result<std::string> nothing(Handle&) { return "{}"; }

/// Holds jobs until it is opened or they are asked to stop.
class Gate {
 public:
  void open() { opened_.store(true), opened_.notify_all(); }
  bool is_open() const { return opened_.load(); }

  Body body() {
    return [this](Handle& handle) -> Result<std::string> {
      std::stop_callback wake(handle.stop(), [this] { open(); });
      opened_.wait(false);
      if (handle.stop().stop_requested()) return fail(ErrorKind::cancelled, "stopped on request");
      return "{}";
    };
  }

 private:
  std::atomic<bool> opened_ = false;
};

TEST_CASE("a job runs, tells its progress and ends with its result") {
  Registry registry(10);
  std::latch told(1), go_on(1);
  std::string id_in_body;
  auto started = registry.start(request("load", "k", "i"), [&](Handle& handle) -> Result<std::string> {
    id_in_body = handle.id();
    handle.stage("reading");
    handle.progress(3, 8);
    told.count_down();
    go_on.wait();
    return R"({"bytes":8})";
  });
  REQUIRE(started);
  CHECK(started->id == "load-1");
  CHECK(started->state == State::running);
  told.wait();
  auto midway = registry.find("load-1");
  REQUIRE(midway);
  CHECK(midway->stage == "reading");
  CHECK(midway->done_bytes == 3);
  CHECK(midway->total_bytes == 8);
  CHECK(midway->state == State::running);
  go_on.count_down();
  auto ended = registry.wait("load-1", soon());
  REQUIRE(ended);
  CHECK(id_in_body == "load-1");
  CHECK(ended->state == State::succeeded);
  CHECK(ended->result == R"({"bytes":8})");
  CHECK_FALSE(ended->error);
  CHECK(ended->subject == "llama@3");
  CHECK(ended->key == "k");
  CHECK(ended->idempotency_key == "i");
  CHECK(ended->ended >= ended->started);
}

TEST_CASE("ids count up over all kinds") {
  Registry registry(10);
  CHECK(registry.start(request("load"), nothing)->id == "load-1");
  CHECK(registry.start(request("update"), nothing)->id == "update-2");
  CHECK(registry.start(request("load"), nothing)->id == "load-3");
  std::vector<std::string> ids;
  for (const auto& record : registry.list()) ids.push_back(record.id);
  CHECK(ids == std::vector<std::string>{"load-3", "update-2", "load-1"});
}

TEST_CASE("whatever a body throws or returns ends in its record") {
  Registry registry(10);
  auto thrown = registry.start(request("load"), [](Handle&) -> Result<std::string> {
    throw std::runtime_error("shelf fell down");
  });
  auto odd = registry.start(request("load"), [](Handle&) -> Result<std::string> { throw 17; });
  auto empty = registry.start(request("load"), Body{});
  auto failed = registry.start(request("load"),
                               [](Handle&) -> Result<std::string> { return fail(ErrorKind::io, "disk gone"); });
  auto cancelled = registry.start(request("load"), [](Handle&) -> Result<std::string> {
    return fail(ErrorKind::cancelled, "the engine was removed");
  });
  for (const auto* job : {&thrown, &odd, &empty}) {
    auto record = registry.wait((*job)->id, soon());
    REQUIRE(record);
    CHECK(record->state == State::failed);
    REQUIRE(record->error);
    CHECK(record->error->kind == ErrorKind::internal);
    CHECK(record->error->sentence.find((*job)->id) != std::string::npos);
  }
  CHECK(registry.find(thrown->id)->error->sentence.find("shelf fell down") != std::string::npos);
  CHECK(registry.wait(failed->id, soon())->error->kind == ErrorKind::io);
  CHECK(registry.wait(cancelled->id, soon())->state == State::cancelled);
}

TEST_CASE("a body and what it holds are gone before its job counts as ended") {
  Registry registry(10);
  for (int round = 0; round < 50; ++round) {
    auto lease = std::make_shared<int>(1);
    std::weak_ptr<int> seen = lease;
    auto job = registry.start(request("load"),
                              [lease = std::move(lease)](Handle&) -> Result<std::string> { return "{}"; });
    REQUIRE(registry.wait(job->id, soon()));
    CHECK(seen.expired());
  }
}

TEST_CASE("the history keeps the newest ends and never drops a running job") {
  Registry registry(3);
  Gate gate;
  auto old = registry.start(request("update", "slow"), gate.body());
  for (int i = 0; i < 8; ++i) {
    auto job = registry.start(request("load"), nothing);
    REQUIRE(registry.wait(job->id, soon()));
  }
  CHECK(registry.list().size() == 4);
  CHECK(registry.find(old->id));
  CHECK_FALSE(registry.find("load-6"));
  CHECK(registry.find("load-7"));
  auto gone = registry.wait("load-2", soon());
  REQUIRE_FALSE(gone);
  CHECK(gone.error().kind == ErrorKind::not_found);
  CHECK(gone.error().sentence.find("load-2") != std::string::npos);

  gate.open();
  REQUIRE(registry.wait(old->id, soon()));
  CHECK(registry.find(old->id));  // started first, but ended last
  CHECK_FALSE(registry.find("load-7"));
  CHECK(registry.list().size() == 3);
}

TEST_CASE("who waits for a job gets its record though the history has dropped it") {
  Registry registry(0);
  Gate gate;
  auto job = registry.start(request("load"), gate.body());
  std::latch waiting(1);
  Result<Record> record;
  std::thread waiter([&] {
    waiting.count_down();
    record = registry.wait(job->id, soon());
  });
  waiting.wait();
  gate.open();
  waiter.join();
  // It may have come too late to find the job, and must not hang then.
  CHECK((record ? record->state == State::succeeded : record.error().kind == ErrorKind::not_found));
  registry.shutdown();
  CHECK(registry.list().empty());
}

TEST_CASE("wait ends at its deadline and says what the job was doing") {
  Registry registry(10);
  Gate gate;
  std::latch told(1);
  auto job = registry.start(request("update"), [&](Handle& handle) -> Result<std::string> {
    handle.stage("waiting for sglang-0");
    handle.progress(1 << 20, 4 << 20);
    told.count_down();
    return gate.body()(handle);
  });
  told.wait();
  auto record = registry.wait(job->id, Deadline::in(1ms));
  REQUIRE_FALSE(record);
  CHECK(record.error().kind == ErrorKind::timed_out);
  for (auto part : {"update-1", "waiting for sglang-0", "4.00 MiB"})
    CHECK(record.error().sentence.find(part) != std::string::npos);
  auto past = registry.wait(job->id, Deadline(Clock::now() - 5s));
  CHECK(past.error().kind == ErrorKind::timed_out);
  gate.open();
}

TEST_CASE("keys find the running job, idempotency keys the newest one") {
  Registry registry(10);
  Gate gate;
  auto first = registry.start(request("update", "a", "once"), nothing);
  REQUIRE(registry.wait(first->id, soon()));
  CHECK_FALSE(registry.running_with_key("a"));
  CHECK(registry.with_idempotency_key("a", "once")->id == first->id);
  auto second = registry.start(request("update", "a", "once"), gate.body());
  CHECK(registry.running_with_key("a")->id == second->id);
  CHECK(registry.with_idempotency_key("a", "once")->id == second->id);
  CHECK_FALSE(registry.with_idempotency_key("b", "once"));
  CHECK_FALSE(registry.with_idempotency_key("a", "twice"));
  auto plain = registry.start(request("update", "c", ""), nothing);
  CHECK_FALSE(registry.with_idempotency_key("c", ""));
  gate.open();
}

TEST_CASE("where the time went stays with the record, also of a job that fails") {
  Registry registry(10);
  auto job = registry.start(request("load"), [](Handle& handle) -> Result<std::string> {
    handle.took({"reserve", 0.5, 1 << 20});
    handle.took({"read", 2, 1 << 19});
    return fail(ErrorKind::io, "the disk is gone");
  });
  auto record = registry.wait(job->id, soon());
  REQUIRE(record);
  CHECK(record->state == State::failed);
  REQUIRE(record->stages.size() == 2);
  CHECK(record->stages[0].name == "reserve");
  CHECK(record->stages[1].seconds == 2);
  CHECK(record->stages[1].bytes == 1 << 19);
}

TEST_CASE("a cancel stops the job, and its callbacks may tell progress") {
  Registry registry(10);
  Gate gate;
  std::latch running(1);
  auto job = registry.start(request("load"), [&](Handle& handle) -> Result<std::string> {
    std::stop_callback tell(handle.stop(), [&] { handle.stage("stopping"); });
    running.count_down();
    return gate.body()(handle);
  });
  running.wait();
  auto record = registry.cancel(job->id, false);
  REQUIRE(record);
  CHECK(record->cancel_requested);
  CHECK(record->id == job->id);
  auto ended = registry.wait(job->id, soon());
  CHECK(ended->state == State::cancelled);
  CHECK(ended->stage == "stopping");
  CHECK(ended->cancel_requested);

  auto again = registry.cancel(job->id, true);
  REQUIRE_FALSE(again);
  CHECK(again.error().kind == ErrorKind::conflict);
  CHECK(again.error().sentence.find("cancelled") != std::string::npos);
  auto unknown = registry.cancel("load-99", false);
  CHECK(unknown.error().kind == ErrorKind::not_found);
}

TEST_CASE("a job that finishes its work although it was cancelled has succeeded") {
  Registry registry(10);
  std::latch cancelled(1);
  auto job = registry.start(request("load"), [&](Handle&) -> Result<std::string> {
    cancelled.wait();
    return "{}";
  });
  REQUIRE(registry.cancel(job->id, false));
  REQUIRE(registry.cancel(job->id, false));  // asking twice is no mistake
  cancelled.count_down();
  CHECK(registry.wait(job->id, soon())->state == State::succeeded);
}

TEST_CASE("a guarded job is cancelled by force alone") {
  Registry registry(10);
  Gate gate;
  std::latch guarded(1);
  bool accepted = false;
  auto job = registry.start(request("update"), [&](Handle& handle) -> Result<std::string> {
    accepted = handle.guard_against_cancel("sglang-0 has received a bucket; use --force").has_value();
    guarded.count_down();
    return gate.body()(handle);
  });
  guarded.wait();
  CHECK(accepted);
  auto refused = registry.cancel(job->id, false);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::conflict);
  CHECK(refused.error().sentence.find("sglang-0") != std::string::npos);
  CHECK(refused.error().facts == std::vector<std::pair<std::string, std::string>>{{"job", job->id}});
  CHECK_FALSE(gate.is_open());
  CHECK_FALSE(registry.find(job->id)->cancel_requested);
  REQUIRE(registry.cancel(job->id, true));
  CHECK(registry.wait(job->id, soon())->state == State::cancelled);
}

TEST_CASE("guard and cancel never both win") {
  Registry registry(10);
  int guards = 0, cancels = 0;
  for (int round = 0; round < 300; ++round) {
    std::latch both(2);
    bool guarded = false, consistent = false;
    auto job = registry.start(request("update"), [&](Handle& handle) -> Result<std::string> {
      both.arrive_and_wait();
      auto guard = handle.guard_against_cancel("too late");
      guarded = guard.has_value();
      consistent = handle.stop().stop_requested() != guarded;
      if (guarded) return "{}";
      return std::unexpected(guard.error());
    });
    both.arrive_and_wait();
    auto cancel = registry.cancel(job->id, false);
    auto record = registry.wait(job->id, soon());
    REQUIRE(record);
    CHECK(guarded != cancel.has_value());
    CHECK(consistent);
    CHECK(record->state == (guarded ? State::succeeded : State::cancelled));
    guarded ? ++guards : ++cancels;
  }
  CHECK(guards + cancels == 300);
}

TEST_CASE("shutdown stops guarded jobs too, joins all and refuses new ones") {
  Registry registry(10);
  Gate first, second;
  std::latch running(2);
  std::atomic<int> ended = 0, guards = 0, late_guards = 0;
  auto body = [&](Gate& gate, bool guard) {
    return [&, guard](Handle& handle) -> Result<std::string> {
      if (guard && handle.guard_against_cancel("no")) ++guards;
      running.count_down();
      auto result = gate.body()(handle);
      if (handle.guard_against_cancel("no")) ++late_guards;
      ++ended;
      return result;
    };
  };
  auto guarded = registry.start(request("update"), body(first, true));
  auto plain = registry.start(request("load"), body(second, false));
  running.wait();
  std::thread another([&] { registry.shutdown(); });
  registry.shutdown();
  CHECK(ended == 2);
  CHECK(guards == 1);
  CHECK(late_guards == 0);
  another.join();
  CHECK(registry.find(guarded->id)->state == State::cancelled);
  CHECK(registry.find(plain->id)->state == State::cancelled);
  auto refused = registry.start(request("load"), nothing);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::unavailable);
  CHECK(registry.list().size() == 2);
}

TEST_CASE("many threads start, watch, cancel and wait at once") {
  Registry registry(5);
  std::atomic<int> bodies = 0, starts = 0, too_early = 0;
  std::mutex mutex;
  std::set<std::string> ids;
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        auto job = registry.start(request(t % 2 ? "load" : "update", std::to_string(t)),
                                  [&](Handle& handle) -> Result<std::string> {
                                    handle.stage("working");
                                    handle.progress(1, 2);
                                    ++bodies;
                                    if (handle.stop().stop_requested()) return fail(ErrorKind::cancelled, "stopped");
                                    return "{}";
                                  });
        if (!job) continue;
        ++starts;
        {
          std::scoped_lock lock(mutex);
          ids.insert(job->id);
        }
        if (i % 3 == 0) (void)registry.cancel(job->id, false);
        (void)registry.running_with_key(std::to_string(t));
        auto record = registry.wait(job->id, soon());
        // With a history of 5, others may have pushed it out already.
        if (record && record->state == State::running) ++too_early;
        (void)registry.list();
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(starts == 240);
  CHECK(too_early == 0);
  CHECK(bodies == 240);
  CHECK(ids.size() == 240);
  CHECK(registry.list().size() == 5);
}

/// Observers run under the registry's lock: this one only writes down.
class Notes {
 public:
  Observer observer() {
    return [this](Change change, const Record& record) {
      std::scoped_lock lock(mutex_);
      changes_.emplace_back(change, record);
    };
  }
  std::vector<std::pair<Change, Record>> taken() const {
    std::scoped_lock lock(mutex_);
    return changes_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<Change, Record>> changes_;
};

TEST_CASE("observers see a job's changes in their order, up to its outcome") {
  Notes notes;
  Registry registry(0);  // the outcome is told although nothing is remembered
  auto observed = registry.observe(notes.observer());
  auto started = registry.start(request("load"), [](Handle& handle) -> Result<std::string> {
    handle.stage("reading");
    handle.progress(3, 8);
    handle.took({"read", 1, 3});
    return fail(ErrorKind::io, "the disk");
  });
  REQUIRE(started);
  registry.shutdown();
  const auto seen = notes.taken();
  REQUIRE(seen.size() == 4);
  CHECK(seen[0].first == Change::started);
  CHECK(seen[1].second.stage == "reading");
  CHECK(seen[2].second.done_bytes == 3);
  CHECK(seen[3].first == Change::ended);
  CHECK(seen[3].second.state == State::failed);
  CHECK(seen[3].second.stages.size() == 1);
  CHECK(seen[3].second.error->kind == ErrorKind::io);
}

TEST_CASE("an observer first learns what runs, and nothing after its end") {
  Notes early, late;
  Registry registry(10);
  Gate gate;
  auto first = registry.observe(early.observer());
  REQUIRE(registry.start(request("load"), gate.body()));
  REQUIRE(registry.start(request("update"), nothing));
  REQUIRE(registry.wait("update-2", soon()));
  auto second = registry.observe(late.observer());
  REQUIRE(late.taken().size() == 1);
  CHECK(late.taken()[0].first == Change::progressed);
  CHECK(late.taken()[0].second.id == "load-1");
  CHECK(registry.running().size() == 1);
  first.reset();
  const auto before = early.taken().size();
  REQUIRE(registry.cancel("load-1", false));
  REQUIRE(registry.wait("load-1", soon()));
  CHECK(early.taken().size() == before);
  const auto seen = late.taken();
  CHECK(seen[1].second.cancel_requested);
  CHECK(seen.back().first == Change::ended);
  CHECK(seen.back().second.state == State::cancelled);
  CHECK(registry.running().empty());
}

TEST_CASE("observers come and go while jobs run") {
  Registry registry(5);
  std::atomic<int> told = 0;
  std::atomic<bool> over = false;
  std::jthread observing([&] {
    while (!over) auto observed = registry.observe([&](Change, const Record&) { ++told; });
  });
  Notes notes;
  auto observed = registry.observe(notes.observer());
  for (int i = 0; i < 100; ++i)
    REQUIRE(registry.start(request("load"), [](Handle& handle) -> Result<std::string> {
      for (std::uint64_t step = 0; step < 10; ++step) handle.progress(step, 10);
      return "{}";
    }));
  registry.shutdown();
  over = true;
  std::size_t ended = 0;
  for (const auto& [change, record] : notes.taken()) ended += change == Change::ended ? 1 : 0;
  CHECK(ended == 100);
}

}  // namespace
}  // namespace ckptd::jobs
