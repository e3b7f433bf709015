// The ring and what is left out of it, with a clock that the test turns.
#include "daemon/control/event_log.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/unit/control/fake_operations.h"

using namespace ckptd;
using namespace std::chrono_literals;
using control::EventLog;
using testing::job_named;
namespace api = proto::control;
using Kind = api::Event::Kind;

namespace {

struct Seen {
  std::string name, id;
  nlohmann::json data;
};

std::vector<Seen> cut(const std::string& text) {
  api::EventReader reader;
  REQUIRE(reader.feed(text));
  std::vector<Seen> seen;
  while (auto event = reader.next())
    seen.push_back({event->name, event->id, nlohmann::json::parse(event->data)});
  return seen;
}

std::string names(const std::vector<Seen>& seen) {
  std::string text;
  for (const auto& each : seen) text += (text.empty() ? "" : " ") + each.name;
  return text;
}

struct Log {
  explicit Log(EventLog::Limits limits = {}) : log("e", limits) {
    log.on_news([this] { ++woken; });
  }
  std::string read(control::EventFeed& feed, std::chrono::milliseconds after = 0ms) { return feed.next(start + after); }
  void started(const std::string& id) { log.add({Kind::job_started, job_named(id, "running")}); }
  void progress(const std::string& id, std::uint64_t bytes) {
    log.add({Kind::job_progress, job_named(id, "running", bytes)});
  }
  void ended(const std::string& id) { log.add({Kind::job_ended, job_named(id, "succeeded")}); }

  int woken = 0;
  Clock::time_point start = Clock::now();
  EventLog log;
};

}  // namespace

TEST_CASE("progress is the latest only, a few times a second, and wakes nobody") {
  Log log;
  auto feed = log.log.follow_all("");
  log.started("load-1");
  CHECK(log.woken == 1);
  CHECK(names(cut(log.read(*feed))) == "job-started");
  for (std::uint64_t i = 1; i <= 100; ++i) log.progress("load-1", i);
  CHECK(log.woken == 1);
  auto seen = cut(log.read(*feed));
  CHECK(names(seen) == "job-progress");
  CHECK(seen[0].data["done_bytes"] == 100);
  CHECK(log.read(*feed, 1000ms).empty());
  log.progress("load-1", 101);
  CHECK(log.read(*feed, 199ms).empty());
  CHECK(cut(log.read(*feed, 200ms))[0].data["done_bytes"] == 101);
}

TEST_CASE("what ends is told at once, whatever progress had to wait") {
  Log log;
  auto feed = log.log.follow_all("");
  log.started("load-1");
  log.progress("load-1", 1);
  CHECK(names(cut(log.read(*feed))) == "job-started job-progress");
  log.progress("load-1", 2);
  log.started("load-2");
  log.progress("load-2", 1);
  log.ended("load-1");
  CHECK(names(cut(log.read(*feed, 1ms))) == "job-started job-ended");
  CHECK(log.log.is_something_running());
  auto later = cut(log.read(*feed, 300ms));
  REQUIRE(later.size() == 1);
  CHECK(later[0].data["id"] == "load-2");
  log.ended("load-2");
  CHECK_FALSE(log.log.is_something_running());
}

TEST_CASE("many events come in pieces, and progress only behind all of them") {
  Log log;
  auto feed = log.log.follow_all("");
  for (int i = 0; i < 70; ++i) log.started(fmt::format("load-{}", i));
  log.progress("load-69", 3);
  std::size_t pieces = 0;
  std::vector<Seen> all;
  for (auto text = log.read(*feed); !text.empty(); text = log.read(*feed), ++pieces)
    for (auto& each : cut(text)) all.push_back(each);
  CHECK(pieces > 1);
  REQUIRE(all.size() == 71);
  CHECK(all.back().name == "job-progress");
  for (std::size_t i = 0; i < 70; ++i) CHECK(all[i].id == fmt::format("e-{}", i + 1));
}

TEST_CASE("whoever is overtaken by the ring learns by how much") {
  for (const auto& limits : {EventLog::Limits{.events = 4}, EventLog::Limits{.bytes = 4 * 1024 + 700}}) {
    Log log(limits);
    auto feed = log.log.follow_all("");
    for (int i = 0; i < 10; ++i) log.ended(fmt::format("load-{}", i));
    auto seen = cut(log.read(*feed));
    CHECK(names(seen) == "missed job-ended job-ended job-ended job-ended");
    CHECK(seen[0].data["events"] == 6);
    CHECK(seen[1].data["id"] == "load-6");
    CHECK(log.read(*feed).empty());
  }
}

TEST_CASE("one event is kept however large it is") {
  Log log({.bytes = 10});
  auto feed = log.log.follow_all("");
  log.ended("load-1");
  CHECK(names(cut(log.read(*feed))) == "job-ended");
}

TEST_CASE("a feed goes on behind an event, as far as the ring reaches") {
  Log log({.events = 4});
  for (int i = 1; i <= 10; ++i) log.ended(fmt::format("load-{}", i));
  CHECK(names(cut(log.read(*log.log.follow_all("e-8")))) == "job-ended job-ended");
  CHECK(log.read(*log.log.follow_all("e-10")).empty());
  auto overtaken = cut(log.read(*log.log.follow_all("e-3")));
  CHECK(names(overtaken) == "missed job-ended job-ended job-ended job-ended");
  CHECK(overtaken[0].data["events"] == 3);
  for (const char* foreign : {"e-11", "f-8", "e", "e-", "e-8x", "e8", "e--8", "18446744073709551616"}) {
    INFO(foreign);
    auto seen = cut(log.read(*log.log.follow_all(foreign)));
    CHECK(names(seen) == "missed");
    CHECK_FALSE(seen[0].data.contains("events"));
  }
}

TEST_CASE("the feed of one job keeps its outcome, however far the ring has moved on") {
  Log log({.events = 2});
  log.started("load-1");
  auto feed = log.log.follow_job(job_named("load-1", "running"));
  CHECK(names(cut(log.read(*feed))) == "job-progress");
  log.ended("load-1");
  for (int i = 2; i < 20; ++i) log.ended(fmt::format("load-{}", i));
  CHECK_FALSE(feed->is_over());
  CHECK(names(cut(log.read(*feed, 1ms))) == "job-ended");
  CHECK(feed->is_over());
  CHECK(log.read(*feed, 1h).empty());
}

TEST_CASE("a job that ended between two looks has its outcome all the same") {
  Log log;
  log.started("load-1");
  log.ended("load-1");
  auto feed = log.log.follow_job(job_named("load-1", "running"));  // as somebody saw it a moment ago
  auto seen = cut(log.read(*feed));
  CHECK(names(seen) == "job-ended");
  CHECK(seen[0].data["state"] == "succeeded");
  CHECK(feed->is_over());
}
