#include "daemon/config/config.h"

#include <random>

#include "parse.h"
#include "proto/control/api.h"

namespace ckptd::config {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kWhole = R"(
runtime_dir = "/tmp/run/"
state_dir = "/tmp/state"
log_level = "debug"
control_group = "operators"
rank_group = "inference"

[device]
kind = "host"
host_devices = 4

[cuda]
library = "/opt/libcuda.so.1"
devices = ["GPU-1", "MIG-2"]

[collective]
backend = "nccl"

[nccl]
library = "/opt/libnccl.so.2"

[store]
budget = "8GiB"
segment = "64KiB"
lock = "try"
huge_pages = false
prefault = "before-ready"

[source]
roots = ["/models", "/data/hub"]
direct_io = false

[prefetch]
readers = 3
hashers = 64
io_uring = false
queue_depth = 1024
read_bytes = "64KiB"
max_bytes_per_second = "2GB"
io_priority = "best-effort"
nice = 19

[push]
bucket = "1MiB"
arena = "1MiB"
keep_arena = false
fan_out = "broadcast"

[timeouts]
load_no_progress = "1s"
connect = "250ms"
reload = "2m"
release = "3s"
finish = "1h"
upload = "4s"
engine = "5s"
custody = "6s"
shutdown = "1.5s"
load_answer = "7s"
engine_connect = "8s"
ping = "9s"
answer_grace = "10s"
rank_grace = "11s"
spread = "12s"
nccl_start = "18s"
control_read = "13s"
control_handler = "14s"
control_write = "15s"
control_drain = "16s"
control_bind = "17s"

[jobs]
history = 100000

[[preload]]
checkpoint = "Qwen/Qwen3-8B@1"
source = "/models/qwen3-8b"
keep = false

[[preload]]
checkpoint = "m@2"
source = "/m \"2\"\\"

[[engine]]
name = "sglang-0"
kind = "sglang"
endpoint = "unix:/run/sglang.sock"
checkpoint = "Qwen/Qwen3-8B"
devices = ["HOST-0", "HOST-1"]
api_key_file = "/etc/ckptd/api.key"
admin_key_file = "/etc/ckptd/admin.key"
)";

void check_whole(const Config& config) {
  CHECK(config.runtime_dir == "/tmp/run");
  CHECK(config.state_dir == "/tmp/state");
  CHECK(config.log_level == "debug");
  CHECK(config.control_group == "operators");
  CHECK(config.rank_group == "inference");
  CHECK(config.device == DeviceKind::host);
  CHECK(config.host_devices == 4);
  CHECK(config.cuda_library == "/opt/libcuda.so.1");
  CHECK(config.cuda_devices == std::vector<std::string>{"GPU-1", "MIG-2"});
  CHECK(config.collective == Backend::nccl);
  CHECK(config.nccl_library == "/opt/libnccl.so.2");
  CHECK(config.store_budget_bytes == std::uint64_t{8} << 30);
  CHECK(config.segment_bytes == 65536);
  CHECK(config.lock == Lock::try_);
  CHECK_FALSE(config.huge_pages);
  CHECK(config.prefault == Prefault::before_ready);
  CHECK(config.source_roots == std::vector<std::filesystem::path>{"/models", "/data/hub"});
  CHECK_FALSE(config.direct_io);
  CHECK(config.prefetch_readers == 3);
  CHECK(config.prefetch_hashers == 64);
  CHECK_FALSE(config.prefetch_io_uring);
  CHECK(config.prefetch_queue_depth == 1024);
  CHECK(config.prefetch_read_bytes == 65536);
  CHECK(config.prefetch_max_bytes_per_second == 2'000'000'000);
  CHECK(config.prefetch_io_priority == IoPriority::best_effort);
  CHECK(config.prefetch_nice == 19);
  CHECK(config.bucket_bytes == 1 << 20);
  CHECK(config.arena_bytes == 1 << 20);
  CHECK_FALSE(config.keep_arena);
  CHECK(config.fan_out == FanOut::broadcast);
  CHECK(config.load_no_progress == 1s);
  CHECK(config.connect_timeout == 250ms);
  CHECK(config.reload_timeout == 2min);
  CHECK(config.release_timeout == 3s);
  CHECK(config.finish_timeout == 1h);
  CHECK(config.upload_timeout == 4s);
  CHECK(config.engine_timeout == 5s);
  CHECK(config.custody == 6s);
  CHECK(config.shutdown == 1500ms);
  CHECK(config.load_answer == 7s);
  CHECK(config.engine_connect_timeout == 8s);
  CHECK(config.ping_timeout == 9s);
  CHECK(config.answer_grace == 10s);
  CHECK(config.rank_grace == 11s);
  CHECK(config.spread_grace == 12s);
  CHECK(config.nccl_start_timeout == 18s);
  CHECK(config.control_read_timeout == 13s);
  CHECK(config.control_handler_timeout == 14s);
  CHECK(config.control_write_timeout == 15s);
  CHECK(config.control_drain == 16s);
  CHECK(config.control_bind_timeout == 17s);
  CHECK(config.job_history == 100'000);
  REQUIRE(config.preloads.size() == 2);
  CHECK(config.preloads[0].checkpoint == "Qwen/Qwen3-8B@1");
  CHECK(config.preloads[0].source == "/models/qwen3-8b");
  CHECK_FALSE(config.preloads[0].keep);
  CHECK(config.preloads[1].source == "/m \"2\"\\");
  CHECK(config.preloads[1].keep);
  REQUIRE(config.engines.size() == 1);
  CHECK(config.engines[0].name == "sglang-0");
  CHECK(config.engines[0].kind == "sglang");
  CHECK(config.engines[0].endpoint == "unix:/run/sglang.sock");
  CHECK(config.engines[0].checkpoint == "Qwen/Qwen3-8B");
  CHECK(config.engines[0].devices == std::vector<std::string>{"HOST-0", "HOST-1"});
  CHECK(config.engines[0].api_key_file == "/etc/ckptd/api.key");
  CHECK(config.engines[0].admin_key_file == "/etc/ckptd/admin.key");
}

TEST_CASE("every key of a file arrives") {
  ConfigFile file(kWhole);
  auto line = file.parse();
  REQUIRE(line);
  CHECK(line->action == Action::run);
  check_whole(line->config);
}

TEST_CASE("what is shown is a file with the same values") {
  for (auto text : {kWhole, std::string_view("store.budget = \"3000001\"\npush.bucket = \"auto\"\n")}) {
    ConfigFile file(text);
    auto first = file.parse();
    REQUIRE(first);
    const auto shown = show(first->config);
    ConfigFile again(shown);
    auto second = again.parse();
    REQUIRE(second);
    CHECK(show(second->config) == shown);
    if (text == kWhole) check_whole(second->config);
    if (text != kWhole) CHECK(second->config.store_budget_bytes == 3'000'001);
  }
}

TEST_CASE("an empty file leaves the defaults") {
  ConfigFile file("");
  auto line = file.parse({"--store-budget", "1GiB"});
  REQUIRE(line);
  Config defaults;
  defaults.store_budget_bytes = 1 << 30;
  CHECK(show(line->config) == show(defaults));
}

TEST_CASE("wrong values are refused with file, line, column and key") {
  ConfigFile file("log_level = \"info\"\n\n[store]\nlock = \"perhaps\"\nbudget = \"1GiB\"\n");
  auto line = file.parse();
  REQUIRE_FALSE(line);
  CHECK(contains(line.error().sentence, file.path() + ":4:1"));
  for (auto part : {"store.lock", "perhaps", "required", "try", "off"}) CHECK(contains(line.error().sentence, part));

  struct Case {
    const char* text;
    const char* culprit;
  };
  for (const auto& [text, culprit] : std::vector<Case>{
           {"log_level = \"loud\"", "loud"},
           {"log_level = 3", "log_level"},
           {"log_level = \"INFO\"", "INFO"},
           {"runtime_dir = \"run\"", "relative"},
           {"runtime_dir = \"\"", "empty"},
           {"runtime_dir = [\"/run\"]", "a list"},
           {"state_dir = \"/a\\u0000b\"", "control character"},
           {"control_group = \"a\\nb\"", "control_group"},
           {"device = \"host\"", "[device]"},
           {"device.kind = \"gpu\"", "gpu"},
           {"device.host_devices = 0", "64"},
           {"device.host_devices = 65", "65"},
           {"device.host_devices = -1", "-1"},
           {"device.host_devices = \"2\"", "text"},
           {"device.host_devices = 2.0", "fraction"},
           {"device.host_devices = 1979-05-27", "date"},
           {"store.budget = 8589934592", "8GiB"},
           {"store.budget = \"8 gigs\"", "8 gigs"},
           {"store.budget = \"0\"", "store.budget"},
           {"store.budget = \"auto\"", "auto"},
           {"store.budget = \"-1GiB\"", "-1GiB"},
           {"store.budget = \"99999999TiB\"", "99999999TiB"},
           {"store.huge_pages = \"yes\"", "true or false"},
           {"store = 3", "[store]"},
           {"[[store]]\nbudget = \"1GiB\"", "[store]"},
           {"source.roots = \"/models\"", "list"},
           {"source.roots = [\"models\"]", "models"},
           {"source.roots = [3]", "source.roots"},
           {"source.roots = [\"/a\", \"/a/\"]", "twice"},
           {"prefetch.readers = 65", "65"},
           {"prefetch.hashers = true", "prefetch.hashers"},
           {"prefetch.queue_depth = 0", "prefetch.queue_depth"},
           {"prefetch.read_bytes = \"63KiB\"", "out of range"},
           {"prefetch.read_bytes = \"257MiB\"", "out of range"},
           {"prefetch.max_bytes_per_second = 200", "in quotes"},
           {"prefetch.max_bytes_per_second = \"200\"", "at least"},
           {"prefetch.max_bytes_per_second = \"auto\"", "prefetch.max_bytes_per_second"},
           {"prefetch.io_priority = \"low\"", "best-effort"},
           {"prefetch.nice = -1", "from 0 to 19"},
           {"prefetch.nice = 20", "from 0 to 19"},
           {"push.bucket = \"0B\"", "push.bucket"},
           {"push.fan_out = \"tree\"", "broadcast"},
           {"timeouts.connect = \"0s\"", "timeouts.connect"},
           {"timeouts.connect = \"-1s\"", "-1s"},
           {"timeouts.connect = 30", "30s"},
           {"timeouts.connect = \"30\"", "30"},
           {"timeouts.connect = \"9000h\"", "8760h"},
           {"timeouts.connect = \"0.1ms\"", "0.1ms"},
           {"jobs.history = 0", "100000"},
           {"jobs.history = 100001", "100001"},
           {"jobs.history = 99999999999999999999", ":1:"},
           {"preload = 1", "[[preload]]"},
           {"[preload]\ncheckpoint = \"a@1\"", "[[preload]]"},
           {"preload = [1]", "[[preload]]"},
           {"[[preload]]\nsource = \"/m\"", "checkpoint"},
           {"[[preload]]\ncheckpoint = \"a@1\"", "source"},
           {"[[preload]]\ncheckpoint = \"a\"\nsource = \"/m\"", "NAME@VERSION"},
           {"[[preload]]\ncheckpoint = \"@1\"\nsource = \"/m\"", "NAME@VERSION"},
           {"[[preload]]\ncheckpoint = \"a@b@1\"\nsource = \"/m\"", "NAME@VERSION"},
           {"[[preload]]\ncheckpoint = \"a@1\"\nsource = \"m\"", "preload.source"},
           {"[[preload]]\ncheckpoint = \"a@1\"\nsource = \"/m\"\nkeep = 1", "preload.keep"},
           {"[[engine]]\nname = \"a/b\"", "a/b"},
           {"[[engine]]\nname = \"..\"", "engine.name"},
           {"[[engine]]\nname = \"e\"", "kind"},
           {"[[engine]]\nname = \"e\"\ncheckpoint = \"m@1\"", "m@1"},
           {"[[engine]]\nname = \"e\"\nendpoint = \"\"", "engine.endpoint"},
           {"[[engine]]\nname = \"e\"\ndevices = [\"HOST-0\", \"HOST-0\"]", "HOST-0"},
           {"[[engine]]\nname = \"e\"\napi_key_file = \"sk-1\"", "engine.api_key_file"},
           {"[[engine]]\nname = \"e\"\nadmin_key_file = 7", "engine.admin_key_file"},
           {"a = ", ":1:"},
           {"store.budget = \"1GiB\"\nstore.budget = \"1GiB\"", ":2:"},
           {"x = \"\xff\"", ":1:"},
       }) {
    auto sentence = refusal_of(text);
    INFO(text << "\n" << sentence);
    CHECK(contains(sentence, culprit));
    CHECK(contains(sentence, "/tmp/ckptd-config-"));
  }
  CHECK(contains(refusal_of("[[engine]]\nname = \"" + std::string(65, 'e') + "\""), "64"));
}

TEST_CASE("unknown keys are refused with the nearest one") {
  CHECK(contains(refusal_of("[store]\nbugdet = \"1GiB\""), "store.budget"));
  CHECK(contains(refusal_of("budget = \"1GiB\""), "store.budget"));
  CHECK(contains(refusal_of("[stroe]\nbudget = \"1GiB\""), "'store'"));
  CHECK(contains(refusal_of("run_time_dir = \"/run\""), "'runtime_dir'"));
  CHECK(contains(refusal_of("[timeouts]\nconnection = \"1s\""), "timeouts.connect"));
  // A key in place of the path to its file must not get into a log.
  CHECK_FALSE(contains(refusal_of("[[engine]]\nname = \"e\"\napi_key_file = \"sk-secret\""), "sk-secret"));
  CHECK(contains(refusal_of("[[engines]]\nname = \"e\""), "'engine'"));
  CHECK(contains(refusal_of("[[engine]]\nnames = \"e\""), "'name'"));
  CHECK(contains(refusal_of("[store.budget]\nvalue = 1"), "store.budget"));
  auto far = refusal_of("[store]\nzzzzzzzzzzzz = 1");
  CHECK(contains(far, "store.zzzzzzzzzzzz"));
  CHECK(contains(far, "store.huge_pages"));
  CHECK(contains(refusal_of(std::string(100'000, 'k') + " = 1"), "store.budget"));
}

TEST_CASE("no two engines have one name, and no two preloads one version") {
  const std::string engine = "[[engine]]\nname = \"e\"\nkind = \"sglang\"\nendpoint = \"host:1\"\ncheckpoint = \"m\"\n";
  auto engines = refusal_of(engine + engine);
  CHECK(contains(engines, "'e'"));
  CHECK(contains(engines, ":6:"));
  const std::string preload = "[[preload]]\ncheckpoint = \"m@1\"\nsource = \"/m\"\n";
  CHECK(contains(refusal_of(preload + preload), "m@1"));
}

TEST_CASE("a missing budget is asked for") {
  ConfigFile file("[device]\nkind = \"host\"\n");
  auto line = file.parse();
  REQUIRE_FALSE(line);
  for (auto part : {"--store-budget", "budget = ", "[store]", file.path().c_str()})
    CHECK(contains(line.error().sentence, part));
}

TEST_CASE("values that contradict each other are refused with both places") {
  auto segment = refusal_of("[store]\nbudget = \"1MiB\"\nsegment = \"2MiB\"");
  for (auto part : {"store.segment", ":3:1", "store.budget", ":2:1"}) CHECK(contains(segment, part));
  CHECK(contains(refusal_of("[store]\nbudget = \"8GiB\"\nsegment = \"2MiB\"", {"--store-budget", "1MiB"}),
                 "--store-budget"));
  CHECK(contains(refusal_of("[store]\nbudget = \"8GiB\"\nsegment = \"60KiB\""), "store.segment"));
  CHECK(contains(refusal_of("[store]\nbudget = \"8GiB\"\nsegment = \"65537\""), "65537"));
  auto arena = refusal_of("[store]\nbudget = \"8GiB\"\n[push]\nbucket = \"2MiB\"\narena = \"1MiB\"");
  for (auto part : {"push.arena", "push.bucket"}) CHECK(contains(arena, part));
}

TEST_CASE("nesting without end is an error and not a stack overflow") {
  CHECK(contains(refusal_of("a = " + std::string(200'000, '[')), ":1:"));
  CHECK(contains(refusal_of("a = " + std::string(200'000, '{')), ":1:"));
  std::string keys = "a";
  for (int i = 0; i < 200'000; ++i) keys += ".a";
  CHECK(contains(refusal_of("\n" + keys + " = 1"), ":2:"));
  CHECK(contains(refusal_of("[" + keys + "]"), ":1:"));
  CHECK(contains(refusal_of("store = { budget = \"1GiB\", " + keys + " = 1 }"), ":1:"));
}

TEST_CASE("dots in quotes and comments are no nesting") {
  ConfigFile file("source.roots = [\"/" + std::string(50, '.') + "\", '/" + std::string(40, '.') + "'] # " +
                  std::string(50, '.') + "\nstore.budget = \"1GiB\"");
  CHECK(file.parse());
}

TEST_CASE("a damaged file is read or refused, whatever the damage") {
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const std::string whole(kWhole);
  ConfigFile file("");
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    auto damaged = whole;
    for (auto edits = random() % 3 + 1; edits > 0 && !damaged.empty(); --edits) {
      auto at = random() % damaged.size();
      switch (random() % 4) {
        case 0: damaged[at] = static_cast<char>(random()); break;
        case 1: damaged.erase(at, random() % 8 + 1); break;
        case 2: damaged.insert(at, 1, "[]{}=\".\n'#\\,0"[random() % 13]); break;
        case 3: damaged.resize(at + 1); break;
      }
    }
    std::ofstream(file.path(), std::ios::binary | std::ios::trunc) << damaged;
    auto line = file.parse();
    if (line) continue;
    ++refused;
    INFO(damaged);
    CHECK(line.error().kind == ErrorKind::invalid_argument);
    CHECK_FALSE(line.error().sentence.empty());
  }
  CHECK(refused > 1000);
}

TEST_CASE("what the start would refuse for what it is, the file is refused for") {
  const auto engine = [](std::string_view kind, std::string_view endpoint, std::string_view checkpoint) {
    return fmt::format("[store]\nbudget = \"1GiB\"\n[[engine]]\nname = \"e\"\nkind = \"{}\"\nendpoint = \"{}\"\ncheckpoint = \"{}\"\n",
                       kind, endpoint, checkpoint);
  };
  for (const auto kind : proto::control::kEngineKinds) CHECK(ConfigFile(engine(kind, "http://h:1", "m")).parse());
  CHECK(contains(refusal_of(engine("foo", "http://h:1", "m")), "sglang, vllm, lmdeploy"));
  for (const char* wrong : {"bar", "https://h:1", "http://h:0", "http://h:80000", "unix:relative"}) {
    const auto sentence = refusal_of(engine("sglang", wrong, "m"));
    INFO(sentence);
    CHECK(contains(sentence, "engine.endpoint"));
    CHECK(contains(sentence, "no endpoint"));
  }
  CHECK(contains(refusal_of(engine("sglang", "http://h:1", "a b")), "engine.checkpoint"));
  CHECK(contains(refusal_of(engine("sglang", "http://h:1", "m") + "target = \"a b@1\"\n"), "engine.target"));
  CHECK(contains(refusal_of(engine("sglang", "http://h:1", "m") + "wake = \"weights\"\n"), "engine e: SGLang does not tell"));
  CHECK(ConfigFile(engine("vllm", "http://h:1", "m") + "wake = \"weights\"\n").parse());
  CHECK(contains(refusal_of(engine("lmdeploy", "http://h:1", "m") + "transfer = \"native\"\n"), "leave engine.transfer at auto"));
  CHECK(contains(refusal_of(engine("sglang", "http://h:1", "m") + "target = \"n@1\"\n"), "no version of its checkpoint m"));
  CHECK(ConfigFile(engine("sglang", "http://h:1", "m") + "target = \"m@1\"\n").parse());
  CHECK(contains(refusal_of("[[preload]]\ncheckpoint = \"a b@1\"\nsource = \"/m\"\n"), "'a b'"));

  const auto listening = [](const std::string& at) {
    return "store.budget = \"1GiB\"\nmetrics.listen = \"" + at + "\"\n";
  };
  for (const char* good : {"", "127.0.0.1:9464", "localhost:0", "[::1]:9464", "unix:/run/metrics.sock", "http://0.0.0.0:1"})
    CHECK(ConfigFile(listening(good)).parse());
  for (const char* wrong : {"foo", "localhost:80000", "foo:9464", ":9464", "1.2.3:1", "unix:m.sock"}) {
    const auto sentence = refusal_of(listening(wrong));
    INFO(sentence);
    CHECK(contains(sentence, "metrics.listen"));
  }
  CHECK(contains(refusal_of("store.budget = \"1GiB\"\n", {"--metrics-listen", "localhost:80000"}), "--metrics-listen"));
  CHECK(contains(refusal_of("store.budget = \"1KiB\"\n"), "2.00 MiB"));
  CHECK(ConfigFile("store.budget = \"1MiB\"\nstore.segment = \"64KiB\"\n").parse());
}

}  // namespace
}  // namespace ckptd::config
