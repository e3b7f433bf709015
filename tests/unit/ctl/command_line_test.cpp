#include "ctl/command_line.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "ctl/source_uri.h"

namespace ckptd::ctl {
namespace {

Result<Invocation> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "ckptctl");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

template <class T>
T command(std::vector<const char*> words) {
  auto invocation = parse(std::move(words));
  INFO((invocation ? "" : invocation.error().sentence));
  REQUIRE(invocation);
  REQUIRE(invocation->command);
  REQUIRE(std::holds_alternative<T>(*invocation->command));
  return std::get<T>(*invocation->command);
}

TEST_CASE("global options stand before or after the command") {
  for (auto words : {std::vector<const char*>{"--json", "--socket", "/s", "job", "list"},
                     std::vector<const char*>{"job", "list", "--json", "--socket", "/s"}}) {
    auto invocation = parse(words);
    REQUIRE(invocation);
    CHECK(invocation->json);
    CHECK(invocation->socket == "/s");
    CHECK(std::holds_alternative<ListJobs>(*invocation->command));
  }
  CHECK(parse({"status"})->socket == "/run/ckptd/control.sock");
}

TEST_CASE("load") {
  auto load =
      command<Load>({"load", "Qwen/Qwen3-8B@base", "/models/x", "--keep", "--detach", "--idempotency-key", "k1"});
  CHECK(load.request.name == "Qwen/Qwen3-8B");
  CHECK(load.request.version == "base");
  CHECK(load.request.source_uri == "file:///models/x");
  CHECK(load.request.keep);
  CHECK(load.request.idempotency_key == "k1");
  CHECK(load.detach);
  CHECK_FALSE(command<Load>({"load", "a@1", "/x"}).request.keep);
  CHECK(load.request.policy == api::LoadPolicy::availability);
  CHECK(command<Load>({"load", "a@1", "/x", "--policy", "resource"}).request.policy == api::LoadPolicy::resource);
  CHECK_FALSE(parse({"load", "a@1", "/x", "--policy", "greedy"}));
}

TEST_CASE("NAME@VERSION is taken apart at its one @, and its parts are the daemon's to judge") {
  CHECK(command<ShowVersion>({"show", "a b\n@../c"}).checkpoint.version == "../c");
  for (const char* wrong : {"a", "@1", "a@", "@", "", "a@b@c", "a@@b"}) CHECK_FALSE(parse({"show", wrong}));
  CHECK(parse({"show", "llama"}).error().sentence.find("llama") != std::string::npos);
}

TEST_CASE("words of commands may be names") {
  CHECK(command<ShowVersion>({"show", "list@1"}).checkpoint.name == "list");
  CHECK(command<Load>({"load", "job@load", "/list"}).request.version == "load");
  CHECK(command<WatchJob>({"job", "watch", "status"}).id == "status");
  const auto trace = command<TraceJob>({"job", "trace", "update-3", "--html", "t.html"});
  CHECK(trace.id == "update-3");
  CHECK(trace.html == "t.html");
  CHECK(trace.output.empty());
  command<Probe>({"probe"});
  CHECK(command<VerifyEngine>({"verify", "e"}).name == "e");
  CHECK(command<ShowEngine>({"engine", "show", "list"}).name == "list");
  CHECK(command<RemoveEngine>({"engine", "remove", "engine"}).name == "engine");
}

TEST_CASE("update") {
  auto update = command<Update>(
      {"update", "--engine", "e0", "a@1", "--engine", "e1", "--force", "--bucket-size", "512MiB", "--keep-cache"});
  CHECK(update.request.engines == std::vector<std::string>{"e0", "e1"});
  CHECK(update.request.name == "a");
  CHECK(update.request.force);
  CHECK(update.request.bucket_bytes == 512ULL << 20);
  CHECK(update.request.flush_cache == false);
  CHECK_FALSE(update.request.dry_run);

  CHECK_FALSE(update.request.external);
  const auto external = command<Update>({"update", "a@1", "--trigger", "external", "--sessions", "2"});
  CHECK(external.request.external);
  CHECK(external.request.sessions == 2u);
  CHECK(parse({"update", "a@1", "--sessions", "2"}).error().sentence.find("--trigger external") != std::string::npos);
  CHECK(parse({"update", "a@1", "--trigger", "me"}).error().sentence.find("ckptd or external") != std::string::npos);

  auto plain = command<Update>({"update", "a@1", "--dry-run"});
  CHECK(plain.request.dry_run);
  CHECK_FALSE(plain.request.flush_cache);
  CHECK_FALSE(plain.request.bucket_bytes);
  CHECK(plain.request.engines.empty());
  CHECK(parse({"update", "a@1", "--bucket-size", "12 elephants"}).error().sentence.find("elephants") !=
        std::string::npos);
}

TEST_CASE("engine add takes the files of keys, and tells who writes the key itself") {
  const std::vector<const char*> words{"engine", "add", "e0", "--kind", "vllm", "--endpoint", "unix:/e", "--checkpoint", "a"};
  auto with = [&](std::initializer_list<const char*> more) {
    auto all = words;
    all.insert(all.end(), more);
    return all;
  };
  const auto here = std::filesystem::current_path();
  std::ofstream(here / "ckptctl-test.key") << "k";
  const auto add = command<AddEngine>(
      with({"--api-key-file", "./ckptctl-test.key", "--admin-key-file", CKPTCTL_MANUAL}));
  CHECK(add.request.api_key_file == (here / "ckptctl-test.key").string());
  CHECK(add.request.admin_key_file == CKPTCTL_MANUAL);
  std::filesystem::remove(here / "ckptctl-test.key");
  for (const auto* option : {"--api-key-file", "--admin-key-file"}) {
    const auto refused = parse(with({option, "sk-secret"}));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence.find(option) != std::string::npos);
    CHECK(refused.error().sentence.find("path of a file") != std::string::npos);
    CHECK(refused.error().sentence.find("sk-secret") == std::string::npos);
  }
}

TEST_CASE("engine add") {
  auto add = command<AddEngine>({"engine", "add", "e0", "--kind", "sglang", "--endpoint", "unix:/run/e.sock",
                                 "--checkpoint", "Qwen/Qwen3-8B", "--devices", "HOST-0,HOST-1", "--devices", "HOST-2"});
  CHECK(add.request.name == "e0");
  CHECK(add.request.kind == "sglang");
  CHECK(add.request.endpoint == "unix:/run/e.sock");
  CHECK(add.request.checkpoint == "Qwen/Qwen3-8B");
  CHECK(add.request.devices == std::vector<std::string>{"HOST-0", "HOST-1", "HOST-2"});
  CHECK_FALSE(parse({"engine", "add", "e0", "--kind", "sglang", "--checkpoint", "a"}));
  CHECK(add.request.api_key_file.empty());
}

TEST_CASE("engine add says what the daemon does by itself") {
  const std::vector<const char*> words{"engine", "add", "e0", "--kind", "sglang", "--endpoint", "unix:/e", "--checkpoint", "a"};
  const auto plain = command<AddEngine>(words).request;
  CHECK(plain.follow);
  CHECK(plain.wake == "none");
  CHECK(plain.target.empty());
  auto more = words;
  more.insert(more.end(), {"--target", "a@1", "--no-follow", "--wake", "weights"});
  const auto full = command<AddEngine>(more).request;
  CHECK_FALSE(full.follow);
  CHECK(full.wake == "weights");
  CHECK(full.target == "a@1");
}

TEST_CASE("engine set, rollback, drain and undrain") {
  const auto set = command<SetEngine>({"engine", "set", "e0", "--target", "a@1"});
  CHECK(set.name == "e0");
  CHECK(set.change.target == "a@1");
  CHECK_FALSE(parse({"engine", "set", "e0"}));
  const auto back = command<RollBack>({"rollback", "--engine", "e0", "--engine", "e1", "--force", "--detach"});
  CHECK(back.request.engines == std::vector<std::string>{"e0", "e1"});
  CHECK(back.request.force);
  CHECK(back.detach);
  CHECK(command<RollBack>({"rollback"}).request.engines.empty());
  CHECK(command<SetDrained>({"drain", "e0"}).engine == "e0");
  CHECK(command<SetDrained>({"drain", "e0"}).drained);
  CHECK_FALSE(command<SetDrained>({"undrain", "--all"}).drained);
  CHECK(command<SetDrained>({"undrain", "--all"}).engine.empty());
  for (const auto& wrong : std::vector<std::vector<const char*>>{{"drain"}, {"undrain"}, {"drain", "e0", "--all"}})
    CHECK_FALSE(parse(wrong));
}

TEST_CASE("watch") {
  CHECK_FALSE(command<Watch>({"watch"}).once);
  CHECK(command<Watch>({"watch", "--once"}).once);
  CHECK_FALSE(parse({"watch", "load-1"}));
}

TEST_CASE("wait") {
  CHECK(command<WaitForJob>({"wait", "job/load-1", "--timeout", "2m"}).timeout == std::chrono::minutes(2));
  CHECK(command<WaitForJob>({"wait", "job/load-1"}).timeout == std::chrono::seconds(30));
  auto engine = command<WaitForEngine>({"wait", "engine/e0", "--serving", "a@1"});
  CHECK(engine.name == "e0");
  CHECK(engine.serving == "a@1");
  for (const char* wrong : {"job", "job/", "engine/", "load-1", "version/a@1", "/"})
    CHECK_FALSE(parse({"wait", wrong}));
  CHECK_FALSE(parse({"wait", "job/load-1", "--serving", "a@1"}));
  CHECK_FALSE(parse({"wait", "job/load-1", "--timeout", "soon"}));
}

TEST_CASE("what is no command is refused by name") {
  CHECK_FALSE(parse({}));
  CHECK_FALSE(parse({"job"}));
  CHECK(parse({"explode"}).error().sentence.find("explode") != std::string::npos);
  CHECK(parse({"job", "explode"}).error().sentence.find("explode") != std::string::npos);
  CHECK(parse({"list", "--colour"}).error().sentence.find("--colour") != std::string::npos);
  CHECK_FALSE(parse({"list", "more"}));
  CHECK_FALSE(parse({"load", "a@1"}));
  CHECK_FALSE(parse({"load", "a@1", "/x", "/y"}));
}

TEST_CASE("help and version are answers, not commands") {
  for (auto words : {std::vector<const char*>{"--help"}, {"--version"}, {"update", "--help"}, {"job", "watch", "-h"}}) {
    auto invocation = parse(words);
    REQUIRE(invocation);
    CHECK_FALSE(invocation->command);
    CHECK_FALSE(invocation->text.empty());
  }
  CHECK(parse({"--help"})->text.find("ckptctl load Qwen/Qwen3-8B@base") != std::string::npos);
}

struct Folder {
  Folder() {
    std::string pattern = "/tmp/ckptctl-test-XXXXXX";
    REQUIRE(::mkdtemp(pattern.data()));
    path = pattern;
    before = std::filesystem::current_path();
    std::filesystem::current_path(path);
  }
  ~Folder() {
    std::filesystem::current_path(before);
    std::filesystem::remove_all(path);
  }
  std::filesystem::path path, before;
};

TEST_CASE("a directory becomes an absolute URI") {
  Folder here;
  auto base = "file://" + here.path.string();
  CHECK(source_uri("models").value() == base + "/models");
  CHECK(source_uri("./models//x/.").value() == base + "/models/x");
  CHECK(source_uri("models/").value() == base + "/models");
  CHECK(source_uri(".").value() == base);
  CHECK(source_uri("/").value() == "file:///");
  CHECK(source_uri("/../x").value() == "file:///x");
  CHECK(source_uri("/a b/100%/\u00e9?#").value() == "file:///a%20b/100%25/%C3%A9%3F%23");
  CHECK(source_uri("file:///already").value() == "file:///already");
  CHECK_FALSE(source_uri(""));
}

TEST_CASE("symbolic links stay, and so does '..' behind one") {
  Folder here;
  auto base = "file://" + here.path.string();
  std::filesystem::create_directories(here.path / "real/deep");
  std::filesystem::create_symlink("real/deep", here.path / "link");
  CHECK(source_uri("link").value() == base + "/link");
  CHECK(source_uri("link/../x").value() == base + "/link/../x");
  CHECK(source_uri("link/../../x").value() == base + "/link/../../x");
  CHECK(source_uri("real/../x").value() == base + "/x");
}

TEST_CASE("a number is what its decimal digits say, or a usage error") {
  const auto unavailable = [](const char* text) {
    return command<Update>({"update", "a@1", "--max-unavailable", text}).request.max_unavailable;
  };
  CHECK(unavailable("0") == 0u);
  CHECK(unavailable("10") == 10u);
  CHECK(unavailable("18446744073709551615") == 18446744073709551615u);
  for (const char* wrong : {"-1", "+1", "010", "0x10", "1.0", "2 ", " 2", "two", "", "99999999999999999999999"}) {
    INFO(wrong);
    const auto refused = parse({"update", "a@1", "--max-unavailable", wrong});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence.find("--max-unavailable") != std::string::npos);
    CHECK_FALSE(parse({"update", "a@1", "--trigger", "external", "--sessions", wrong}));
  }
  CHECK_FALSE(parse({"update", "a@1", "--trigger", "external", "--sessions=-18446744073709551615"}));
  CHECK_FALSE(parse({"update", "a@1", "--max-unavailable="}));
}

TEST_CASE("an empty word, as of a variable that is not set, is no word that was left out") {
  for (const auto& words : std::vector<std::vector<const char*>>{{"load", "a@1", "/x", "--idempotency-key", ""},
                                                                 {"rollback", "--idempotency-key", ""},
                                                                 {"--socket", "", "status"}}) {
    const auto refused = parse(words);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence.find("is empty") != std::string::npos);
  }
  CHECK_FALSE(parse({"update", "a@1", "--idempotency-key="}));
  CHECK_FALSE(parse({"status", "--socket="}));
}

TEST_CASE("a wait has an end that a clock can show") {
  CHECK(command<WaitForEngine>({"wait", "engine/e0", "--timeout", "8760h"}).timeout == std::chrono::hours(8760));
  for (const char* too_long : {"8761h", "9999999h", "99999999h"}) {
    const auto refused = parse({"wait", "job/load-1", "--timeout", too_long});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence.find("8760h") != std::string::npos);
  }
}

}  // namespace
}  // namespace ckptd::ctl
