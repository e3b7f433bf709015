// What stands at the end of a half-typed line, and what a shell gets to hear of it.
#include "ctl/completion.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "ctl/client.h"
#include "tests/unit/ctl/child.h"
#include "tests/unit/ctl/fake_daemon.h"

namespace ckptd::ctl {
namespace {

using Words = std::vector<std::string>;
using nlohmann::json;

Words offered(const Words& words) { return candidates(expected_at_end(words)); }

/// The same of names that a daemon tells, which is not waited for: one that is held up is asked again.
Words named(const Words& words) {
  auto all = offered(words);
  for (const auto deadline = Deadline::in(std::chrono::seconds(10)); all.empty() && !deadline.passed();)
    all = offered(words);
  return all;
}

bool offers(const Words& words, const std::string& candidate) {
  auto all = offered(words);
  return std::ranges::find(all, candidate) != all.end();
}

test::Reply answer_of_daemon(const test::Asked& asked) {
  if (asked.target == "/v1/checkpoints")
    return {.body = json{{"versions",
                          {{{"name", "Qwen/Qwen3-8B"}, {"version", "1"}, {"state", "resident"}},
                           {{"name", "gt"}, {"version", "2"}, {"state", "resident"}}}}}
                        .dump()};
  if (asked.target == "/v1/engines")
    return {.body = json{{"engines", {{{"name", "e0"}, {"state", "idle"}}, {{"name", "two words"}, {"state", "idle"}}}}}
                        .dump()};
  if (asked.target == "/v1/jobs") return {.body = json{{"jobs", {{{"id", "load-1"}, {"state", "running"}}}}}.dump()};
  return {.status = 404};
}

TEST_CASE("commands, their commands and their options are completed from the tables that parse them") {
  CHECK(offered({"upd"}) == Words{"update"});
  CHECK(offers({""}, "status"));
  CHECK(offers({"--json", ""}, "load"));
  CHECK_FALSE(offers({""}, "__complete"));
  CHECK(offered({"job", ""}) == Words{"list", "show", "watch", "trace", "cancel"});
  CHECK(offered({"update", "--dry"}) == Words{"--dry-run"});
  CHECK(offered({"update", "gt@1", "--so"}) == Words{"--socket"});  // a global one, behind the command
  CHECK(offered({"nonsense", "upd"}) == Words{"update"});
  CHECK(offered({"status", ""}).empty());
  CHECK(offered({}) == offered({""}));
}

TEST_CASE("values are completed by what they stand for") {
  CHECK(expected_at_end({"show", ""}).what == Stands::version);
  CHECK(expected_at_end({"load", "gt@1", ""}).what == Stands::directory);
  CHECK(expected_at_end({"load", "--keep", "gt@1", ""}).what == Stands::directory);
  CHECK(expected_at_end({"load", "--idempotency-key", "k", ""}).what == Stands::version);
  CHECK(expected_at_end({"update", "--engine", ""}).what == Stands::engine);
  CHECK(expected_at_end({"engine", "add", "e", "--devices", ""}).what == Stands::device);
  CHECK(expected_at_end({"wait", "j"}).what == Stands::subject);
  CHECK(expected_at_end({"load", "--idempotency-key", ""}).what == Stands::free);
  CHECK(offered({"load", "gt@1", ""}) == Words{":directory"});
  CHECK(offered({"--socket", ""}) == Words{":file"});
  CHECK(offered({"engine", "add", "e", "--kind", "s"}) == Words{"sglang"});
  CHECK(offered({"engine", "add", "e", "--kind=s"}) == Words{"--kind=sglang"});
  CHECK(offered({"completion", "z"}) == Words{"zsh"});
}

TEST_CASE("names come from the daemon that the line names") {
  test::FakeDaemon daemon(answer_of_daemon);
  const auto socket = daemon.socket();
  CHECK(named({"--socket", socket, "show", ""}) == Words{"Qwen/Qwen3-8B@1", "gt@2"});
  CHECK(named({"--socket=" + socket, "show", "g"}) == Words{"gt@2"});
  CHECK(named({"show", "--socket", socket, "gt@"}) == Words{"gt@2"});
  CHECK(named({"--socket", socket, "engine", "show", ""}) == Words{"e0"});  // and no name that would be two words
  CHECK(named({"--socket", socket, "wait", "job/"}) == Words{"job/load-1"});
  CHECK(named({"--socket", socket, "job", "watch", ""}) == Words{"load-1"});
}

TEST_CASE("no daemon, a slow one and one that talks nonsense give no candidates and no complaint") {
  CHECK(offered({"--socket", "/nowhere/control.sock", "show", ""}).empty());
  test::FakeDaemon babbler([](const test::Asked&) { return test::Reply{.body = "no json"}; });
  CHECK(offered({"--socket", babbler.socket(), "show", ""}).empty());
  test::FakeDaemon sleeper([](const test::Asked&) { return test::Reply{.delay = std::chrono::seconds(60)}; });
  auto began = std::chrono::steady_clock::now();
  auto ended = test::run_ctl({"__complete", "--socket", sleeper.socket(), "show", ""});
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(30));
  CHECK(ended.exit_code == 0);
  CHECK(ended.out.empty());
  CHECK(ended.err.empty());
}

// ---- the shell's side ----

/// What bash offers at the end of this line, once.
std::string bash_offers_at_once(const std::string& line) {
  const std::string program = CKPTCTL_PROGRAM;
  const auto script = "source <('" + program + "' completion bash); COMP_LINE='" + line +
                      "'; COMP_POINT=${#COMP_LINE}; COMPREPLY=(); compopt() { :; }; _ckptctl '" + program +
                      "'; echo \"${COMPREPLY[*]}\"";
  FILE* pipe = ::popen(("bash -c '" + [&] {
                         std::string quoted;
                         for (char c : script) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
                         return quoted;
                       }() + "'")
                           .c_str(),
                       "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  char text[256];
  while (::fgets(text, sizeof text, pipe) != nullptr) out += text;
  CHECK(::pclose(pipe) == 0);
  while (out.ends_with('\n')) out.pop_back();
  return out;
}

/// And again as long as it is nothing: a daemon that is held up tells no names.
std::string bash_offers(const std::string& line) {
  auto all = bash_offers_at_once(line);
  for (const auto deadline = Deadline::in(std::chrono::seconds(10)); all.empty() && !deadline.passed();)
    all = bash_offers_at_once(line);
  return all;
}

TEST_CASE("bash completes commands, and versions from behind their @, where it breaks words") {
  test::FakeDaemon daemon(answer_of_daemon);
  const auto ckptctl = "ckptctl --socket " + daemon.socket();
  CHECK(bash_offers("ckptctl upd") == "update");
  CHECK(bash_offers("ckptctl job ") == "list show watch trace cancel");
  CHECK(bash_offers(ckptctl + " show ") == "Qwen/Qwen3-8B@1 gt@2");
  CHECK(bash_offers(ckptctl + " show Qwen/Q") == "Qwen/Qwen3-8B@1");
  CHECK(bash_offers(ckptctl + " show gt@") == "2");
  CHECK(bash_offers("ckptctl engine add e --kind=") == "sglang vllm lmdeploy");
  CHECK(bash_offers("ckptctl --socket /et") == "/etc");
  CHECK(bash_offers("ckptctl nonsense --nonsense ") .find("status") != std::string::npos);
}

TEST_CASE("there are scripts for three shells, and another one is refused") {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    auto ended = test::run_ctl({"completion", shell});
    CHECK(ended.exit_code == 0);
    CHECK(ended.out.find("__complete") != std::string::npos);
  }
  CHECK(test::run_ctl({"completion", "tcsh"}).exit_code == 3);
}

TEST_CASE("the trace of a job is completed as the job is, and its files as files") {
  CHECK(expected_at_end({"job", "trace", ""}).what == Stands::job);
  CHECK(expected_at_end({"job", "trace", "--output", ""}).what == Stands::file);
  CHECK(expected_at_end({"job", "trace", "load-1", "--html", ""}).what == Stands::file);
}

}  // namespace
}  // namespace ckptd::ctl
