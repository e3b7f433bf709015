// The real program against a fake daemon: requests, exit codes, and where output goes.
#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/files.h"
#include "ctl/answers.h"
#include "proto/control/api.h"
#include "proto/control/outcome.h"
#include "tests/unit/ctl/child.h"
#include "tests/unit/ctl/fake_daemon.h"

namespace ckptd::ctl::test {
namespace {

namespace api = proto::control;
using nlohmann::json;

bool holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

json load_job(const char* state = "succeeded") {
  json job{{"id", "load-1"},     {"kind", "load"},  {"subject", "gt@1"}, {"state", state},
           {"stage", "reading"}, {"done_bytes", 1}, {"total_bytes", 2},  {"started", "2030-01-01T00:00:00Z"}};
  if (std::string_view(state) == "succeeded")
    job["result"] = {{"checkpoint", "gt@1"}, {"bytes", 1000}, {"tensors", 3}, {"seconds", 0.5}, {"identity", "3fa9"}};
  return job;
}

json version() {
  return {{"name", "gt"}, {"version", "1"}, {"state", "resident"}, {"since", "2030-01-01T00:00:00Z"}};
}
json engine() {
  return {{"name", "e0"}, {"state", "serving"}, {"ready", true}, {"serving", "gt@1"}, {"target", "gt@1"}};
}

FakeDaemon::Handler always(json answer, unsigned status = 200) {
  return [reply = Reply{status, answer.dump()}](const Asked&) { return reply; };
}

std::vector<std::string> against(const FakeDaemon& daemon, std::vector<std::string> words) {
  words.insert(words.begin(), {"--socket", daemon.socket()});
  return words;
}

/// Exactly one JSON object and one line break.
json only_json(const std::string& out) {
  INFO(out);
  REQUIRE(!out.empty());
  CHECK(out.find('\n') == out.size() - 1);
  auto parsed = json::parse(out, nullptr, false);
  REQUIRE(parsed.is_object());
  return parsed;
}

struct Expectation {
  std::vector<std::string> words;
  std::string method, target;
  json body;
  json answer;
};

TEST_CASE("every command asks the right thing and exits with 0, as text and as JSON") {
  const std::string version_path = "/v1/checkpoints/Qwen%2FQwen3-8B/versions/base";
  const std::vector<Expectation> all{
      {{"load", "Qwen/Qwen3-8B@base", "/m", "--keep"},
       "PUT",
       version_path,
       {{"source", {{"uri", "file:///m"}}}, {"keep", true}},
       load_job()},
      {{"update", "gt@1", "--engine", "e0"},
       "POST",
       "/v1/updates",
       {{"checkpoint", "gt"}, {"version", "1"}},
       load_job()},
      {{"update", "gt@1", "--dry-run"},
       "POST",
       "/v1/updates",
       {{"dry_run", true}},
       {{"checkpoint", "gt@1"}, {"engines", json::array()}}},
      {{"list"}, "GET", "/v1/checkpoints", {}, {{"versions", {version()}}}},
      {{"show", "gt@1"}, "GET", "/v1/checkpoints/gt/versions/1", {}, version()},
      {{"show", "gt@1", "--tensors"}, "GET", "/v1/checkpoints/gt/versions/1?tensors=true", {}, version()},
      {{"status"}, "GET", "/v1/status", {}, {{"daemon_version", "0.1.0"}, {"pid", 1}, {"ready", true}}},
      {{"evict", "gt@1"}, "DELETE", "/v1/checkpoints/gt/versions/1", {}, json::object()},
      {{"evict", "gt@1", "--forget"}, "DELETE", "/v1/checkpoints/gt/versions/1?forget=true", {}, json::object()},
      {{"keep", "gt@1"}, "PATCH", "/v1/checkpoints/gt/versions/1", {{"kept", true}}, version()},
      {{"unkeep", "gt@1"}, "PATCH", "/v1/checkpoints/gt/versions/1", {{"kept", false}}, version()},
      {{"trim"}, "POST", "/v1/store/trim", {}, {{"bytes", 5}}},
      {{"job", "list"}, "GET", "/v1/jobs", {}, {{"jobs", {load_job()}}}},
      {{"job", "show", "load-1"}, "GET", "/v1/jobs/load-1", {}, load_job()},
      {{"job", "watch", "load-1"}, "GET", "/v1/jobs/load-1", {}, load_job()},
      {{"job", "trace", "load-1"}, "GET", "/v1/jobs/load-1/trace", {}, {{"traceEvents", json::array()}}},
      {{"probe"}, "POST", "/v1/probe", {}, load_job()},
      {{"verify", "e0"}, "POST", "/v1/engines/e0/verify", {}, load_job()},
      {{"job", "cancel", "load/1"}, "DELETE", "/v1/jobs/load%2F1", {}, load_job("running")},
      {{"job", "cancel", "load-1", "--force"}, "DELETE", "/v1/jobs/load-1?force=true", {}, load_job("running")},
      {{"engine", "add", "e0", "--kind", "sglang", "--endpoint", "unix:/e", "--checkpoint", "gt", "--devices", "A,B"},
       "PUT",
       "/v1/engines/e0",
       {{"kind", "sglang"}, {"endpoint", "unix:/e"}, {"devices", {"A", "B"}}},
       engine()},
      {{"engine", "add", "e0", "--kind", "sglang", "--endpoint", "unix:/e", "--checkpoint", "gt", "--target", "gt@1",
        "--no-follow", "--wake", "all"},
       "PUT",
       "/v1/engines/e0",
       {{"target", "gt@1"}, {"follow", false}, {"wake", "all"}},
       engine()},
      {{"engine", "set", "e0", "--target", "gt@1"}, "PATCH", "/v1/engines/e0", {{"target", "gt@1"}}, engine()},
      {{"rollback", "--engine", "e0"}, "POST", "/v1/rollbacks", {{"engines", {"e0"}}, {"force", false}}, load_job()},
      {{"update", "gt@1", "--trigger", "external", "--sessions", "2"},
       "POST",
       "/v1/updates",
       {{"trigger", "external"}, {"sessions", 2}},
       load_job()},
      {{"drain", "e0"}, "POST", "/v1/engines/e0/drain", {}, engine()},
      {{"undrain", "e0"}, "POST", "/v1/engines/e0/undrain", {}, engine()},
      {{"drain", "--all"}, "POST", "/v1/drain", {}, {{"daemon_version", "0.1.0"}, {"ready", false}}},
      {{"undrain", "--all"}, "POST", "/v1/undrain", {}, {{"daemon_version", "0.1.0"}, {"ready", true}}},
      {{"engine", "list"}, "GET", "/v1/engines", {}, {{"engines", {engine()}}}},
      {{"engine", "show", "e0"}, "GET", "/v1/engines/e0", {}, engine()},
      {{"engine", "remove", "e0"}, "DELETE", "/v1/engines/e0", {}, json::object()},
      {{"wait", "job/load-1"}, "GET", "/v1/jobs/load-1", {}, load_job()},
      {{"wait", "engine/e0"}, "GET", "/v1/engines/e0", {}, engine()},
      {{"wait", "engine/e0", "--serving", "gt@1"}, "GET", "/v1/engines/e0", {}, engine()},
  };
  for (const auto& expected : all) {
    CAPTURE(expected.words);
    auto answer = expected.answer;
    answer["from_the_future"] = 1;
    FakeDaemon daemon(always(answer));
    auto ended = run_ctl(against(daemon, expected.words));
    CHECK(ended.exit_code == 0);
    CHECK(ended.err.empty());
    CHECK_FALSE(ended.out.empty());
    auto asked = daemon.asked();
    REQUIRE(asked.size() == 1);
    CHECK(asked[0].method == expected.method);
    CHECK(asked[0].target == expected.target);
    auto body = json::parse(asked[0].body, nullptr, false);
    for (const auto& [name, value] : expected.body.items()) CHECK(body[name] == value);

    auto as_json = run_ctl(against(daemon, [&] {
      auto words = expected.words;
      words.push_back("--json");
      return words;
    }()));
    CHECK(as_json.exit_code == 0);
    CHECK(as_json.err.empty());
    CHECK(only_json(as_json.out) == answer);  // also what we do not know of
  }
}

TEST_CASE("trim says what was given back, and communicators where there were some") {
  json answer{{"bytes", 5 << 20}, {"communicators", 1}};
  FakeDaemon daemon([&](const Asked&) { return Reply{200, answer.dump()}; });
  CHECK(run_ctl(against(daemon, {"trim"})).out ==
        "5.00 MiB given back to the system\n1 set of NCCL communicators let go; the next update of those GPUs makes them anew\n");
  answer["communicators"] = 2;
  CHECK(holds(run_ctl(against(daemon, {"trim"})).out, "2 sets of NCCL communicators let go"));
  for (const auto& without : {json{{"bytes", 0}, {"communicators", 0}}, json{{"bytes", 0}}}) {  // also of an older daemon
    answer = without;
    CHECK(run_ctl(against(daemon, {"trim"})).out == "0 B given back to the system\n");
  }
  answer = {{"bytes", 0}, {"communicators", "x"}};
  CHECK(run_ctl(against(daemon, {"trim"})).exit_code != 0);
}

TEST_CASE("a trace goes into a file, as JSON and as a page, and a file that cannot be written is told") {
  FakeDaemon daemon([](const Asked& asked) {
    if (asked.target.ends_with("/trace")) return Reply{200, R"({"traceEvents":[],"otherData":{"job":"load-1"}})"};
    auto job = load_job();
    job["subject"] = "</script><script>alert(1)</script>";
    return Reply{200, job.dump()};
  });
  std::string folder = "/tmp/ckptctl-test-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()));
  const auto output = folder + "/t.json", html = folder + "/t.html";
  auto ended = run_ctl(against(daemon, {"job", "trace", "load-1", "--output", output, "--html", html}));
  CHECK(ended.exit_code == 0);
  CHECK(holds(ended.out, output));
  CHECK(holds(ended.out, html));
  CHECK(json::parse(read_small_file(output).value_or(""), nullptr, false)["otherData"]["job"] == "load-1");
  const auto page = read_small_file(html).value_or("");
  CHECK(holds(page, "<!doctype html>"));
  CHECK_FALSE(holds(page, "alert(1)</script>"));
  auto as_json = run_ctl(against(daemon, {"--json", "job", "trace", "load-1", "--html", html}));
  CHECK(only_json(as_json.out)["html"] == html);
  auto failed = run_ctl(against(daemon, {"job", "trace", "load-1", "--output", folder + "/no/such/t.json"}));
  CHECK(failed.exit_code == api::outcome_of(ErrorKind::not_found).exit_code);
  CHECK(holds(failed.err, folder + "/no/such/t.json"));
  CHECK(run_ctl(against(daemon, {"job", "trace", "load-1", "--output", "/dev/full"})).exit_code ==
        api::outcome_of(ErrorKind::no_space).exit_code);
  std::filesystem::remove_all(folder);
}

TEST_CASE("the daemon's own parsers take what is sent, whole") {
  FakeDaemon daemon(always(load_job()));
  run_ctl(against(daemon, {"load", "gt@1", "/m", "--keep"}));
  run_ctl(against(daemon, {"update", "gt@1"}));
  run_ctl(against(daemon, {"update", "gt@1", "--engine", "e0", "--engine", "e1", "--force", "--bucket-size", "1MiB",
                           "--keep-cache"}));
  run_ctl(against(daemon, {"engine", "add", "e0", "--kind", "sglang", "--endpoint", "unix:/e", "--checkpoint", "gt"}));
  run_ctl(against(daemon, {"unkeep", "gt@1"}));
  auto asked = daemon.asked();
  REQUIRE(asked.size() == 5);

  auto load = api::parse_load_request(asked[0].body);
  REQUIRE(load);
  CHECK(load->source_uri == "file:///m");
  CHECK(load->keep);
  auto plain = api::parse_update_request(asked[1].body), full = api::parse_update_request(asked[2].body);
  REQUIRE(plain);
  CHECK(plain->engines.empty());
  CHECK_FALSE(plain->flush_cache);
  CHECK_FALSE(plain->bucket_bytes);
  REQUIRE(full);
  CHECK(full->engines == std::vector<std::string>{"e0", "e1"});
  CHECK(full->force);
  CHECK(full->bucket_bytes == 1U << 20);
  CHECK(full->flush_cache == false);
  auto engine = api::parse_engine_request(asked[3].body);
  REQUIRE(engine);
  CHECK(engine->devices.empty());
  CHECK(api::parse_keep_request(asked[4].body) == false);
}

TEST_CASE("the idempotency key travels as a header") {
  FakeDaemon daemon(always(load_job()));
  run_ctl(against(daemon, {"load", "gt@1", "/m", "--idempotency-key", "k-17"}));
  CHECK(holds(daemon.asked().at(0).head, "Idempotency-Key: k-17"));
}

TEST_CASE("a relative directory is completed from where ckptctl stands") {
  FakeDaemon daemon(always(load_job()));
  Surroundings in_tmp;
  in_tmp.directory = "/tmp";
  run_ctl(against(daemon, {"load", "gt@1", "some model"}), in_tmp);
  CHECK(holds(daemon.asked().at(0).body, "file:///tmp/some%20model"));
}

TEST_CASE("every kind of error has its exit code and keeps sentence, facts and vendor text") {
  for (const auto& outcome : api::outcomes()) {
    Error error{outcome.kind, "engine e0 is in the way", "Traceback:\n  File \"x\"", {{"job", "update-3"}}};
    FakeDaemon daemon(always(api::to_json(error), outcome.http_status));
    CAPTURE(name_of(outcome.kind));
    auto text = run_ctl(against(daemon, {"list"}));
    CHECK(text.exit_code == outcome.exit_code);
    CHECK(text.out.empty());
    CHECK(holds(text.err, "ckptctl: engine e0 is in the way\n    Traceback:\n      File \"x\"\n"));
    CHECK(holds(text.err, "update-3"));

    auto as_json = run_ctl(against(daemon, {"list", "--json"}));
    CHECK(as_json.exit_code == outcome.exit_code);
    CHECK(as_json.err.empty());
    auto object = only_json(as_json.out);
    CHECK(object["error"]["kind"] == name_of(outcome.kind));
    CHECK(object["error"]["facts"]["job"] == "update-3");
  }
}

TEST_CASE("statuses without an error object are judged by their number") {
  struct Case {
    unsigned status;
    const char* body;
    int exit_code;
  };
  for (auto [status, body, exit_code] :
       {Case{404, "", 5}, Case{404, R"({"error":"gone"})", 5}, Case{500, "<html>", 70}, Case{418, "tea", 3},
        Case{503, "{}", 14}, Case{302, "", 8}, Case{599, "[]", 70}}) {
    FakeDaemon daemon([&](const Asked&) { return Reply{status, body}; });
    CAPTURE(status, body);
    auto ended = run_ctl(against(daemon, {"status"}));
    CHECK(ended.exit_code == exit_code);
    CHECK(holds(ended.err, std::to_string(status)));
    CHECK(run_ctl(against(daemon, {"status", "--json"})).exit_code == exit_code);
  }
}

TEST_CASE("garbage is refused with a sentence") {
  const std::string http = "HTTP/1.1 200 OK\r\nContent-Length: ";
  const std::vector<Reply> garbage{
      {.raw = "SSH-2.0-OpenSSH\r\n\r\n"},
      {.raw = http + "4\r\n\r\nnope"},
      {.raw = http + "99999999999999999999\r\n\r\n{}"},
      {.raw = http + "-1\r\n\r\n{}"},
      {.raw = http + "2\r\n\r\n\xff\xfe"},
      {.body = "7"},
      {.body = R"({"jobs":7})"},
      {.body = R"({"jobs":[7]})"},
      {.body = R"({"jobs":[{"id":7,"state":"running"}]})"},
      {.body = R"({"jobs":[{"id":"load-1","state":"running","done_bytes":-1}]})"},
      {.body = std::string(100'000, '[')},
  };
  for (const auto& reply : garbage) {
    FakeDaemon daemon([&](const Asked&) { return reply; });
    CAPTURE(reply.raw, reply.body.substr(0, 80));
    auto text = run_ctl(against(daemon, {"job", "list"}));
    CHECK(text.exit_code == api::outcome_of(ErrorKind::corrupt).exit_code);
    CHECK(text.out.empty());
    CHECK(holds(text.err, "ckptctl: "));
    auto as_json = run_ctl(against(daemon, {"job", "list", "--json"}));
    CHECK(as_json.err.empty());
    CHECK(only_json(as_json.out)["error"]["kind"] == "corrupt");
  }
}

TEST_CASE("a daemon that hangs up before it answers is unavailable") {
  FakeDaemon daemon([](const Asked&) { return Reply{.hang_up = true}; });
  auto ended = run_ctl(against(daemon, {"list"}));
  CHECK(ended.exit_code == api::outcome_of(ErrorKind::unavailable).exit_code);
  CHECK(holds(ended.err, daemon.socket()));
}

TEST_CASE("no daemon: the sentence names the socket and what to check") {
  std::string socket;
  {
    FakeDaemon daemon(always(json::object()));
    daemon.die();
    auto stale = run_ctl(against(daemon, {"list"}));
    CHECK(stale.exit_code == 14);
    CHECK(holds(stale.err, daemon.socket()));
    CHECK(holds(stale.err, "systemctl status ckptd"));
    socket = daemon.socket();
  }
  auto missing = run_ctl({"--socket", socket, "--json", "list"});
  CHECK(missing.exit_code == 14);
  CHECK(missing.err.empty());
  auto sentence = only_json(missing.out)["error"]["sentence"].get<std::string>();
  CHECK(holds(sentence, socket));
  CHECK(holds(sentence, "--socket"));

  CHECK(holds(run_ctl({"--socket", "/dev/null", "list"}).err, "/dev/null is not a socket"));
  auto long_path = run_ctl({"--socket", "/" + std::string(200, 'x'), "list"});
  CHECK(holds(long_path.err, "107"));
  CHECK(long_path.exit_code == 3);
}

/// What explain_no_answer() tells a user who is neither root nor in root's groups; "kind sentence".
std::string explained_to_a_stranger(const std::string& socket) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  auto child = ::fork();
  if (child == 0) {
    bool dropped = ::geteuid() != 0 || (::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0);
    auto error = explain_no_answer({ErrorKind::denied, "connect: Permission denied"}, socket);
    auto text = fmt::format("{} {}", name_of(error.kind), error.sentence);
    ::_exit(dropped && ::write(ends[1], text.data(), text.size()) > 0 ? 0 : 1);
  }
  ::close(ends[1]);
  std::array<char, 1000> text{};
  auto count = ::read(ends[0], text.data(), text.size());
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  return count > 0 ? std::string(text.data(), static_cast<std::size_t>(count)) : "";
}

TEST_CASE("a socket that one may not open names its group") {
  std::string folder = "/tmp/ckptctl-test-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()));
  auto socket = folder + "/control.sock";
  REQUIRE(::mknod(socket.c_str(), S_IFSOCK, 0) == 0);
  ::chmod(socket.c_str(), 0);
  ::chmod(folder.c_str(), 0755);
  auto closed = explained_to_a_stranger(socket);
  CHECK(holds(closed, "denied"));
  CHECK(holds(closed, socket));
  CHECK(holds(closed, "group " + std::string(::getgrgid(::getegid())->gr_name)));
  ::chmod(folder.c_str(), 0);
  CHECK(holds(explained_to_a_stranger(socket), "denied"));
  ::chmod(folder.c_str(), 0700);
  std::filesystem::remove_all(folder);
}

TEST_CASE("usage errors exit with 2 and keep stdout pure") {
  for (auto words : {std::vector<std::string>{"explode"}, {}, {"show", "no-version"}, {"wait", "load-1"}}) {
    auto text = run_ctl(words);
    CHECK(text.exit_code == api::kExitUsage);
    CHECK(text.out.empty());
    CHECK(holds(text.err, "ckptctl: "));
    words.push_back("--json");
    auto as_json = run_ctl(words);
    CHECK(as_json.exit_code == api::kExitUsage);
    CHECK(as_json.err.empty());
    CHECK(only_json(as_json.out).contains("error"));
  }
  auto help = run_ctl({"--help"});
  CHECK(help.exit_code == 0);
  CHECK(holds(help.out, "Examples:"));
  CHECK(holds(run_ctl({"--version"}).out, "ckptctl"));
}

TEST_CASE("text of the daemon cannot drive the terminal, and JSON stays valid when it is no UTF-8") {
  Error error{ErrorKind::corrupt, "bad \x1b[2J name", "vendor \x1b]0;x\x07"};
  FakeDaemon daemon(always(api::to_json(error), 422));
  CHECK_FALSE(holds(run_ctl(against(daemon, {"list"})).err, "\x1b"));
  FakeDaemon binary([](const Asked&) { return Reply{500, "\xff\xfe\xfd"}; });
  only_json(run_ctl(against(binary, {"list", "--json"})).out);
}

TEST_CASE("a bare list is wrapped, so that --json is an object") {
  FakeDaemon daemon(always(json::array({engine()})));
  CHECK(only_json(run_ctl(against(daemon, {"engine", "list", "--json"})).out)["engines"].size() == 1);
}

}  // namespace
}  // namespace ckptd::ctl::test
