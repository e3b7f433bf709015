// Waiting: the real program follows jobs of a fake daemon that goes on, fails, dies, restarts or stalls.
#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <sstream>

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

TEST_CASE("a daemon that is not there yet is waited for as well as an engine, and not for ever") {
  const auto serving = json{{"name", "e0"}, {"kind", "sglang"}, {"endpoint", "http://h:1"}, {"checkpoint", "gt"},
                            {"devices", {"HOST-0"}}, {"target", "gt@1"}, {"serving", "gt@1"}, {"state", "serving"},
                            {"ready", true}};
  const Reply closing{503, R"({"error":{"kind":"unavailable","sentence":"the daemon is ending"}})"};
  FakeDaemon daemon(one_after_the_other({closing, closing, ok(serving)}));
  const auto ended = run_ctl({"--socket", daemon.socket(), "wait", "engine/e0", "--timeout", "30s"});
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, "engine e0 serves gt@1"));
  CHECK(ended.err == "ckptctl: the daemon is ending; waiting for it\n");

  daemon.die();
  const auto in_vain = run_ctl({"--socket", daemon.socket(), "wait", "engine/e0", "--timeout", "1s"});
  CHECK(in_vain.exit_code == 14);
  CHECK(holds(in_vain.err, "waiting for it"));
  CHECK(holds(in_vain.err, "no daemon answers on"));

  // What will not be otherwise in a while is told at once.
  CHECK(run_ctl({"--socket", "/dev/null", "wait", "engine/e0", "--timeout", "60s"}).exit_code == 3);
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

json ready_engine(std::string serving, bool ready = true) {
  auto shown = engine("serving", std::move(serving));
  shown["ready"] = ready;
  return shown;
}

TEST_CASE("an engine is waited for until it is ready and serves its target") {
  FakeDaemon daemon(one_after_the_other({ok(engine("updating", "gt@1", "an earlier update broke off")),
                                         ok(ready_engine("gt@1")), ok(ready_engine("gt@2", false)),
                                         ok(ready_engine("gt@2"))}));
  auto ended = run_ctl(wait_for_engine(daemon));
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, "gt@2"));
  CHECK(daemon.asked().size() == 4);
}

TEST_CASE("a daemon from before the life cycle calls an engine that serves idle") {
  FakeDaemon daemon(one_after_the_other({ok(engine("idle", "gt@1")), ok(engine("idle", "gt@2"))}));
  CHECK(run_ctl(wait_for_engine(daemon)).exit_code == 0);
  CHECK(daemon.asked().size() == 2);
}

TEST_CASE("an engine that the daemon heals is waited for, and one that nobody heals is not") {
  auto healing = engine("poisoned", "gt@1", "the rank died");
  healing["next"] = "wait";
  FakeDaemon daemon(one_after_the_other({ok(healing), ok(ready_engine("gt@2"))}));
  CHECK(run_ctl(wait_for_engine(daemon)).exit_code == 0);
  healing["next"] = "tell";
  FakeDaemon by_hand(one_after_the_other({ok(healing)}));
  auto ended = run_ctl(wait_for_engine(by_hand));
  CHECK(ended.exit_code == 11);
  CHECK(holds(ended.err, "ckptctl update gt@2 --engine e0"));
}

TEST_CASE("an engine without a target is waited for in vain, and why is said") {
  auto nothing = engine("waiting", "");
  nothing["target"] = "";
  nothing["why"] = "it was given nothing yet, and has no target";
  FakeDaemon daemon(one_after_the_other({ok(nothing)}));
  auto ended = run_ctl(wait_for_engine(daemon, {"--timeout", "200ms"}));
  CHECK(ended.exit_code == 12);
  CHECK(holds(ended.err, "has no target"));
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

// ---- events ----

/// A stream without a length: it ends with its connection.
Reply stream(const std::vector<std::pair<std::string, json>>& events) {
  std::string raw = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nretry: 1000\n\n";
  for (const auto& [name, data] : events) raw += fmt::format("id: a-1\nevent: {}\ndata: {}\n\n", name, data.dump());
  return {.body = {}, .raw = raw};
}

std::size_t polls_of(const FakeDaemon& daemon) {
  std::size_t polls = 0;
  for (const auto& asked : daemon.asked()) polls += asked.target.find("?wait=") != std::string::npos ? 1 : 0;
  return polls;
}

TEST_CASE("a job is followed by its events, without asking again") {
  FakeDaemon daemon(one_after_the_other({ok(job("running"))}),
                    one_after_the_other({stream({{"job-progress", job("running", "reading", 40)},
                                                 {"something-new", json::array()},
                                                 {"job-progress", "not what it should be"},
                                                 {"job-progress", job("running", "hashing", 100)},
                                                 {"job-ended", job("succeeded")}})}));
  auto ended = run_ctl(load_from(daemon));
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, "loaded gt@1"));
  CHECK(holds(ended.err, "load-1: reading"));
  CHECK(holds(ended.err, "load-1: hashing"));
  CHECK(polls_of(daemon) == 0);
  CHECK(json::parse(run_ctl(load_from(daemon, {"--json"})).out) == job("succeeded"));
}

TEST_CASE("when events end without an outcome, the job is asked for") {
  auto stranger = job("succeeded");
  stranger["started"] = "2031-01-01T00:00:00Z";
  for (const auto& broken :
       {stream({}), stream({{"closing", {{"sentence", "ckptd ends"}}}}), stream({{"job-ended", stranger}}),
        Reply{503, R"({"error":{"kind":"unavailable","sentence":"too many"}})"}, Reply{200, "garbage"},
        Reply{.body = {}, .hang_up = true}}) {
    FakeDaemon daemon(one_after_the_other({ok(job("running")), ok(job("succeeded"))}),
                      one_after_the_other({broken}));
    auto ended = run_ctl(load_from(daemon));
    CHECK(ended.exit_code == 0);
    CHECK(polls_of(daemon) == 1);
  }
}

TEST_CASE("a deadline and Ctrl-C end a stream of events that says nothing") {
  auto silent = one_after_the_other({Reply{200, "", std::chrono::seconds(30)}});
  FakeDaemon daemon(one_after_the_other({ok(job("running"))}), silent);
  auto late = run_ctl({"--socket", daemon.socket(), "wait", "job/load-1", "--timeout", "300ms"});
  CHECK(late.exit_code == 12);
  Child child(load_from(daemon));
  REQUIRE(daemon.wait_for_requests(4));  // two jobs, two streams
  child.signal(SIGINT);
  auto ended = child.finish();
  CHECK(ended.exit_code == 130);
  CHECK(holds(ended.err, "ckptctl job watch load-1"));
}

TEST_CASE("watch prints a line for each event, and ends with the stream when asked to") {
  json version{{"name", "gt"}, {"version", "1"}, {"state", "resident"}, {"tensor_bytes", 2048}, {"kept", true}};
  auto failed = job("failed");
  failed["error"] = {{"kind", "io"}, {"sentence", "the disk\x1b[31m\nfailed"}};
  FakeDaemon daemon(one_after_the_other({Reply{}}),
                    one_after_the_other({stream({{"job-started", job("running")},
                                                 {"job-progress", job("running", "reading", 10)},
                                                 {"version-changed", version},
                                                 {"engine-changed", engine("updating", "gt@1")},
                                                 {"engine-changed", engine("poisoned", "gt@1", "the rank died")},
                                                 {"engine-removed", engine("idle", "gt@1")},
                                                 {"something-new", {{"a", 1}}},
                                                 {"missed", {{"sentence", "some are lost"}, {"events", 3}}},
                                                 {"job-ended", failed}})}));
  auto ended = run_ctl({"--socket", daemon.socket(), "watch", "--once"});
  CHECK(ended.exit_code == 14);
  CHECK(count_of(ended.out, '\n') == 6);
  for (const char* part : {"load-1         started    gt@1\n", "gt@1           resident   2.00 KiB, kept\n",
                           "engine e0      updating\n", "engine e0      poisoned   the rank died\n",
                           "engine e0      removed\n", "load-1         failed     the disk\\x1b[31m failed\n"}) {
    INFO(part);
    CHECK(holds(ended.out, part));
  }
  CHECK(holds(ended.err, "some are lost"));
  CHECK(holds(ended.err, "load-1: reading"));

  auto as_json = run_ctl({"--socket", daemon.socket(), "watch", "--once", "--json"});
  std::istringstream lines(as_json.out);
  std::vector<json> values;
  for (std::string line; std::getline(lines, line);) values.push_back(json::parse(line));
  REQUIRE(values.size() == 10);  // the last is the error that ends it
  CHECK(values[6] == json{{"event", "something-new"}, {"id", "a-1"}, {"data", {{"a", 1}}}});
  CHECK(values[8]["data"] == failed);
  CHECK(values[9]["error"]["kind"] == "unavailable");
}

TEST_CASE("watch goes on behind the last event when its connection is lost") {
  FakeDaemon daemon(one_after_the_other({Reply{}}), one_after_the_other({stream({{"job-started", job("running")}}),
                                                                  stream({{"job-ended", job("succeeded")}})}));
  Child child({"--socket", daemon.socket(), "watch"});
  REQUIRE(daemon.wait_for_requests(2));
  REQUIRE(child.wait_for_err("answers again"));
  child.signal(SIGINT);
  auto ended = child.finish();
  CHECK(ended.exit_code == 0);
  CHECK_FALSE(holds(daemon.asked().at(0).head, "Last-Event-ID"));
  CHECK(holds(daemon.asked().at(1).head, "Last-Event-ID: a-1"));
  CHECK(holds(ended.out, "succeeded"));
}

TEST_CASE("a daemon that tells no events is named as the reason") {
  FakeDaemon old(one_after_the_other({Reply{}}));
  auto ended = run_ctl({"--socket", old.socket(), "watch"});
  CHECK(ended.exit_code == 5);
  CHECK(holds(ended.err, "older"));
}

TEST_CASE("Ctrl-C in a command that only asks does not speak of a request that may have reached the daemon") {
  FakeDaemon daemon(one_after_the_other({ok(engine("updating", "gt@1"), std::chrono::seconds(30))}));
  Child child(wait_for_engine(daemon));
  REQUIRE(daemon.wait_for_requests(1));
  child.signal(SIGINT);
  auto ended = child.finish();
  CHECK(ended.exit_code == 130);
  CHECK(holds(ended.err, "interrupted; this command changes nothing"));
  CHECK_FALSE(holds(ended.err, "job list"));
}

}  // namespace
}  // namespace ckptd::ctl::test
