#include "common/version.h"
#include "parse.h"

namespace ckptd::config {
namespace {

std::string refusal(std::vector<std::string> arguments) {
  auto line = parse(std::move(arguments));
  REQUIRE_FALSE(line);
  CHECK(line.error().kind == ErrorKind::invalid_argument);
  return line.error().sentence;
}

TEST_CASE("flags alone are enough") {
  auto line = parse({"--runtime-dir", "/r", "--state-dir=/s", "--device", "cuda", "--host-devices", "2",
                     "--store-budget", "512 MiB", "--lock", "off", "--log-level", "trace"});
  REQUIRE(line);
  CHECK(line->action == Action::run);
  CHECK(line->answer.empty());
  CHECK(line->config.runtime_dir == "/r");
  CHECK(line->config.state_dir == "/s");
  CHECK(line->config.device == DeviceKind::cuda);
  CHECK(line->config.host_devices == 2);
  CHECK(line->config.store_budget_bytes == 512 << 20);
  CHECK(line->config.lock == Lock::off);
  CHECK(line->config.log_level == "trace");
}

TEST_CASE("flags go over the file") {
  ConfigFile file("log_level = \"warn\"\nstate_dir = \"/from/file\"\nstore.budget = \"1GiB\"\n");
  auto line = file.parse({"--store-budget", "2GiB", "--log-level", "error"});
  REQUIRE(line);
  CHECK(line->config.store_budget_bytes == std::uint64_t{2} << 30);
  CHECK(line->config.log_level == "error");
  CHECK(line->config.state_dir == "/from/file");
}

TEST_CASE("relative paths of flags become absolute") {
  auto line = parse({"--store-budget", "1GiB", "--runtime-dir", "./run/../now/", "--state-dir", "state"});
  REQUIRE(line);
  CHECK(line->config.runtime_dir == std::filesystem::current_path() / "now");
  CHECK(line->config.state_dir == std::filesystem::current_path() / "state");
}

TEST_CASE("wrong flags are named with what is allowed") {
  CHECK(contains(refusal({"--store-budget", "lots"}), "--store-budget"));
  CHECK(contains(refusal({"--store-budget", ""}), "--store-budget"));
  CHECK(contains(refusal({"--store-budget"}), "--store-budget"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--store-budget", "2GiB"}), "--store-budget"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--lock", "maybe"}), "required"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--device", "tpu"}), "cuda"));
  for (auto count : {"0", "65", "two", "2x", "", "1.5", "99999999999999999999"}) {
    auto sentence = refusal({"--store-budget", "1GiB", "--host-devices", count});
    CHECK(contains(sentence, "--host-devices"));
    CHECK(contains(sentence, "64"));
  }
  CHECK(contains(refusal({"--store-budget", "1GiB", "--state-dir", ""}), "--state-dir"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--config", ""}), "--config"));
  CHECK(contains(refusal({}), "--store-budget"));
}

TEST_CASE("unknown flags and stray words are refused") {
  auto sentence = refusal({"--store-buget", "1GiB"});
  CHECK(contains(sentence, "--store-buget"));
  CHECK(contains(sentence, "'--store-budget'"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--check-confg"}), "--check-config"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "--state_dir=/s"}), "'--state-dir'"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "start"}), "'start'"));
  CHECK(contains(refusal({"--store-budget", "1GiB", "-x"}), "-x"));
}

TEST_CASE("help and version are answered whatever else is there") {
  auto help = parse({"--help"});
  REQUIRE(help);
  CHECK(help->action == Action::done);
  for (const auto& key : known_keys()) CHECK((key.flag.empty() || contains(help->answer, key.flag)));
  CHECK(contains(help->answer, "--check-config"));
  auto version = parse({"--version", "--lock", "nonsense"});
  REQUIRE(version);
  CHECK(version->action == Action::done);
  CHECK(contains(version->answer, kVersion));
}

TEST_CASE("--check-config shows the values in effect") {
  ConfigFile file("store.budget = \"1GiB\"\n");
  auto line = file.parse({"--check-config", "--lock", "try"});
  REQUIRE(line);
  CHECK(line->action == Action::check);
  CHECK(line->answer.starts_with(file.path() + ": ok\n"));
  CHECK(contains(line->answer, "budget = \"1GiB\""));
  CHECK(contains(line->answer, "lock = \"try\""));
  CHECK(line->answer.ends_with(show(line->config)));
  CHECK_FALSE(file.parse({"--check-config", "--lock", "perhaps"}));
}

TEST_CASE("a file that cannot be read is named") {
  for (auto path : {"/nowhere/ckptd.toml", "/tmp", "/dev/null/x"}) {
    auto line = parse({"--config", path});
    REQUIRE_FALSE(line);
    CHECK(contains(line.error().sentence, path));
  }
  ConfigFile large(std::string(2 << 20, '#'));
  CHECK(contains(large.parse().error().sentence, large.path()));
}

TEST_CASE("a command line without a program's name is no accident") {
  const char* const none[] = {nullptr};
  auto line = parse_command_line(0, none);
  REQUIRE_FALSE(line);
  CHECK(contains(line.error().sentence, "--store-budget"));
}

}  // namespace
}  // namespace ckptd::config
