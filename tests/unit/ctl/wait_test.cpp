// Waiting: the real program follows jobs of a fake daemon that goes on, fails, dies, restarts or stalls.
#include <signal.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/unit/ctl/child.h"
#include "tests/unit/ctl/fake_daemon.h"

namespace ckptd::ctl::test {
namespace {

using nlohmann::json;

bool holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::size_t count_of(const std::string& text, char c) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), c));
}

json job(std::string state, std::string stage = "reading", int done = 1) {
  json object{{"id", "load-1"}, {"kind", "load"},     {"subject", "gt@1"},  {"state", state},
              {"stage", stage}, {"done_bytes", done}, {"total_bytes", 100}, {"started", "2030-01-01T00:00:00Z"}};
  if (state == "succeeded") object["result"] = {{"checkpoint", "gt@1"}, {"bytes", 100}};
  return object;
}

/// Answers the first request with the first, and so on; the last stays.
FakeDaemon::Handler one_after_the_other(std::vector<Reply> replies) {
  auto next = std::make_shared<std::atomic<std::size_t>>(0);
  return [=](const Asked&) { return replies[std::min((*next)++, replies.size() - 1)]; };
}

Reply ok(const json& answer, std::chrono::milliseconds delay = {}) {
  return {200, answer.dump(), delay};
}

std::vector<std::string> load_from(const FakeDaemon& daemon, std::vector<std::string> more = {}) {
  std::vector<std::string> words{"--socket", daemon.socket(), "load", "gt@1", "/m"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_CASE("a load is followed to its end with one plain line for each stage") {
  FakeDaemon daemon(one_after_the_other({ok(job("running", "opening")), ok(job("running", "reading", 10)),
                                         ok(job("running", "reading", 20)), ok(job("running", "hashing", 20)),
                                         ok(job("succeeded"))}));
  auto ended = run_ctl(load_from(daemon));
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, "loaded gt@1"));
  CHECK(count_of(ended.err, '\n') == 3);
  CHECK(holds(ended.err, "load-1: reading, 10 B of 100 B (10%)"));
  CHECK_FALSE(holds(ended.err, "\x1b"));
  CHECK(holds(daemon.asked().at(1).target, "/v1/jobs/load-1?wait=1"));
}

TEST_CASE("with --json only the finished job is printed") {
  FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running")), ok(job("succeeded"))}));
  auto ended = run_ctl(load_from(daemon, {"--json"}));
  CHECK(ended.exit_code == 0);
  CHECK(json::parse(ended.out) == job("succeeded"));
  CHECK(ended.err.empty());
}

TEST_CASE("on a terminal one line is redrawn and taken away again") {
  FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running", "reading", 50)), ok(job("succeeded"))}));
  for (const char* locale : {"LC_ALL=C.UTF-8", "LC_ALL=C"})
    for (bool as_json : {false, true}) {
      FakeDaemon fresh(
          one_after_the_other({ok(job("running")), ok(job("running", "reading", 50)), ok(job("succeeded"))}));
      Surroundings terminal{60, {"TERM=xterm", locale}, {}};
      auto ended = run_ctl(load_from(fresh, as_json ? std::vector<std::string>{"--json"} : std::vector<std::string>{}),
                           terminal);
      CHECK(ended.exit_code == 0);
      CHECK(holds(ended.err, "50%"));
      CHECK(count_of(ended.err, '\n') == 0);
      CHECK(holds(ended.err, "█") == holds(locale, "UTF-8"));
      CHECK(ended.err.substr(ended.err.size() - 4) == "\r\x1b[K");
      if (as_json) CHECK(json::parse(ended.out) == job("succeeded"));
    }
  Surroundings dumb{60, {"TERM=dumb"}, {}};
  CHECK_FALSE(holds(run_ctl(load_from(daemon), dumb).err, "\x1b"));
}

TEST_CASE("--detach prints the job and returns at once") {
  FakeDaemon daemon(one_after_the_other({ok(job("running"))}));
  auto text = run_ctl(load_from(daemon, {"--detach"}));
  CHECK(text.exit_code == 0);
  CHECK(holds(text.out, "ckptctl job watch load-1"));
  CHECK(daemon.asked().size() == 1);
  CHECK(json::parse(run_ctl(load_from(daemon, {"--detach", "--json"})).out) == job("running"));
}

TEST_CASE("a job that fails ends with its error's exit code and names the job") {
  auto failed = job("failed");
  failed["error"] = {{"kind", "peer_failed"}, {"sentence", "the rank on HOST-1 failed"}, {"vendor", "Traceback:\n  x"}};
  FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(failed)}));
  auto text = run_ctl(load_from(daemon));
  CHECK(text.exit_code == 11);
  CHECK(text.out.empty());
  CHECK(holds(text.err, "the rank on HOST-1 failed\n    Traceback:\n      x\n"));
  CHECK(holds(text.err, "load-1"));
  auto as_json = json::parse(run_ctl({"--socket", daemon.socket(), "job", "watch", "load-1", "--json"}).out);
  CHECK(as_json["error"]["facts"]["job"] == "load-1");
}

TEST_CASE("jobs that end without a reason still end with an error") {
  FakeDaemon cancelled(one_after_the_other({ok(job("cancelled"))}));
  CHECK(run_ctl(load_from(cancelled)).exit_code == 13);
  FakeDaemon failed(one_after_the_other({ok(job("failed"))}));
  CHECK(run_ctl(load_from(failed)).exit_code == 70);
}

TEST_CASE("the daemon dies while we wait") {
  for (bool as_json : {false, true}) {
    FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running"), std::chrono::seconds(30))}));
    Child child(load_from(daemon, as_json ? std::vector<std::string>{"--json"} : std::vector<std::string>{}));
    REQUIRE(daemon.wait_for_requests(2));
    daemon.die();
    auto ended = child.finish();
    CHECK(ended.exit_code == 14);
    auto told = as_json ? json::parse(ended.out)["error"]["sentence"].get<std::string>() : ended.err;
    CHECK(holds(told, "connection to the daemon was lost"));
    CHECK(holds(told, "load-1"));
    CHECK(holds(told, "ckptctl status"));
  }
}

TEST_CASE("the daemon is another one when we ask again") {
  auto stranger = job("running");
  stranger["started"] = "2031-01-01T00:00:00Z";
  auto unknown = Reply{404, R"({"error":{"kind":"not_found","sentence":"no job load-1"}})"};
  for (const auto& second : {ok(stranger), unknown}) {
    FakeDaemon daemon(one_after_the_other({ok(job("running")), second}));
    auto ended = run_ctl(load_from(daemon));
    CHECK(ended.exit_code == 14);
    CHECK(holds(ended.err, "restarted"));
    CHECK(holds(ended.err, "load-1"));
  }
}

TEST_CASE("a job that never was is not found") {
  FakeDaemon daemon(one_after_the_other({{404, R"({"error":{"kind":"not_found","sentence":"no job load-9"}})"}}));
  CHECK(run_ctl({"--socket", daemon.socket(), "job", "watch", "load-9"}).exit_code == 5);
}

TEST_CASE("garbage in the middle of a wait") {
  FakeDaemon daemon(one_after_the_other({ok(job("running")), {200, "garbage"}}));
  auto ended = run_ctl(load_from(daemon));
  CHECK(ended.exit_code == 8);
  CHECK(holds(ended.err, "load-1"));
}

TEST_CASE("a daemon that does not honour the wait is not asked in a tight loop") {
  FakeDaemon daemon(one_after_the_other({ok(job("running"))}));
  auto ended = run_ctl({"--socket", daemon.socket(), "wait", "job/load-1", "--timeout", "2s"});
  CHECK(ended.exit_code == 12);
  CHECK(holds(ended.err, "still running"));
  CHECK(daemon.asked().size() < 40);
}

TEST_CASE("a wait of no time at all tells the state") {
  FakeDaemon daemon(one_after_the_other({ok(job("running"))}));
  CHECK(run_ctl({"--socket", daemon.socket(), "wait", "job/load-1", "--timeout", "0s"}).exit_code == 12);
  FakeDaemon done(one_after_the_other({ok(job("succeeded"))}));
  CHECK(run_ctl({"--socket", done.socket(), "wait", "job/load-1", "--timeout", "0s"}).exit_code == 0);
}

TEST_CASE("Ctrl-C and SIGTERM detach and say how to go on") {
  for (int number : {SIGINT, SIGTERM})
    for (bool as_json : {false, true}) {
      FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running"), std::chrono::seconds(30))}));
      Child child(load_from(daemon, as_json ? std::vector<std::string>{"--json"} : std::vector<std::string>{}));
      REQUIRE(daemon.wait_for_requests(2));
      child.signal(number);
      auto ended = child.finish();
      CHECK(ended.exit_code == 130);
      CHECK(holds(ended.err, "goes on"));
      CHECK(holds(ended.err, "ckptctl job watch load-1"));
      CHECK(holds(ended.err, "ckptctl job cancel load-1"));
      if (as_json)
        CHECK(json::parse(ended.out) == job("running"));
      else
        CHECK(ended.out.empty());
      for (const auto& asked : daemon.asked()) CHECK(asked.method != "DELETE");
    }
}

TEST_CASE("Ctrl-C takes the bar off the terminal before it says anything") {
  FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running"), std::chrono::seconds(30))}));
  Child child(load_from(daemon), {80, {"TERM=xterm"}, {}});
  REQUIRE(daemon.wait_for_requests(2));
  REQUIRE(child.wait_for_err("reading"));
  child.signal(SIGINT);
  auto ended = child.finish();
  CHECK(ended.exit_code == 130);
  CHECK(holds(ended.err, "\r\x1b[Kckptctl: detached"));
}

TEST_CASE("Ctrl-C before the daemon has answered") {
  FakeDaemon daemon(one_after_the_other({ok(job("running"), std::chrono::seconds(30))}));
  for (bool as_json : {false, true}) {
    Child child(load_from(daemon, as_json ? std::vector<std::string>{"--json"} : std::vector<std::string>{}));
    REQUIRE(daemon.wait_for_requests(as_json ? 2 : 1));
    child.signal(SIGINT);
    auto ended = child.finish();
    CHECK(ended.exit_code == 130);
    CHECK(holds(as_json ? ended.out : ended.err, "ckptctl job list"));
    if (as_json) CHECK(json::parse(ended.out)["error"]["kind"] == "cancelled");
  }
}

TEST_CASE("a storm of Ctrl-C ends at once, whatever is going on") {
  FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("running"), std::chrono::seconds(30))}));
  Child child(load_from(daemon));
  REQUIRE(daemon.wait_for_requests(2));
  for (int i = 0; i < 5; ++i) child.signal(SIGINT);
  CHECK(child.finish().exit_code == 130);
}

json engine(std::string state, std::string serving, std::string poisoned = {}) {
  return {{"name", "e0"},       {"checkpoint", "gt"}, {"state", state},
          {"serving", serving}, {"target", "gt@2"},   {"poisoned", poisoned}};
}

std::vector<std::string> wait_for_engine(const FakeDaemon& daemon, std::vector<std::string> more = {}) {
  std::vector<std::string> words{"--socket", daemon.socket(), "wait", "engine/e0"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_CASE("an engine is waited for until it is idle and serves its target") {
  FakeDaemon daemon(one_after_the_other({ok(engine("updating", "gt@1", "an earlier update broke off")),
                                         ok(engine("idle", "gt@1")), ok(engine("idle", "gt@2"))}));
  auto ended = run_ctl(wait_for_engine(daemon));
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, "gt@2"));
  CHECK(daemon.asked().size() == 3);
}

TEST_CASE("an engine that does not arrive") {
  FakeDaemon idle(one_after_the_other({ok(engine("idle", "gt@2"))}));
  auto late = run_ctl(wait_for_engine(idle, {"--serving", "gt@3", "--timeout", "200ms"}));
  CHECK(late.exit_code == 12);
  CHECK(holds(late.err, "gt@3"));
  CHECK(run_ctl(wait_for_engine(idle, {"--serving", "gt@2", "--timeout", "0s"})).exit_code == 0);

  FakeDaemon poisoned(one_after_the_other({ok(engine("poisoned", "gt@1", "the rank died"))}));
  auto hopeless = run_ctl(wait_for_engine(poisoned));
  CHECK(hopeless.exit_code == 11);
  CHECK(holds(hopeless.err, "the rank died"));

  FakeDaemon updating(one_after_the_other({ok(engine("updating", "gt@1"))}));
  Child child(wait_for_engine(updating));
  REQUIRE(updating.wait_for_requests(1));
  child.signal(SIGINT);
  CHECK(child.finish().exit_code == 130);
}

}  // namespace
}  // namespace ckptd::ctl::test
