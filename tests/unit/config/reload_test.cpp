#include "daemon/config/keys.h"
#include "parse.h"

namespace ckptd::config {
namespace {

Config config_of(std::string_view text) {
  ConfigFile file(text);
  auto line = file.parse();
  INFO((line ? "" : line.error().sentence));
  REQUIRE(line);
  return line->config;
}

constexpr std::string_view kBefore = "[store]\nbudget = \"1GiB\"\n";

TEST_CASE("a reload of the same file changes nothing") {
  auto config = config_of(kBefore);
  auto same = *reload(config, config);
  CHECK(same.applied.empty());
  CHECK(same.needs_restart.empty());
  CHECK(show(same.config) == show(config));
}

TEST_CASE("a reload applies some keys and names those that need a restart") {
  const auto running = config_of(kBefore);
  const auto wanted = config_of(
      "log_level = \"debug\"\nrank_group = \"g\"\n[store]\nbudget = \"2GiB\"\n[timeouts]\nreload = \"7s\"\n"
      "[[preload]]\ncheckpoint = \"a@1\"\nsource = \"/a\"\n"
      "[[engine]]\nname = \"e\"\nkind = \"sglang\"\nendpoint = \"unix:/e\"\ncheckpoint = \"a\"\n");
  const auto both = *reload(running, wanted);
  CHECK(both.applied == std::vector<std::string>{"log_level", "timeouts.reload", "preload", "engine"});
  CHECK(both.needs_restart == std::vector<std::string>{"rank_group", "store.budget"});
  CHECK(both.config.log_level == "debug");
  CHECK(both.config.reload_timeout == std::chrono::seconds(7));
  CHECK(both.config.preloads == wanted.preloads);
  CHECK(both.config.engines == wanted.engines);
  CHECK(both.config.store_budget_bytes == running.store_budget_bytes);
  CHECK(both.config.rank_group.empty());

  const auto again = *reload(both.config, wanted);  // what needs a restart is told again, what is applied is not
  CHECK(again.applied.empty());
  CHECK(again.needs_restart == both.needs_restart);
}

TEST_CASE("every key that a reload applies is applied, and no other") {
  const auto running = config_of(kBefore);
  for (const auto& key : config_keys()) {
    INFO(key.name);
    Config target;
    key.copy(running, target);
    CHECK(key.show(target) == key.show(running));
  }
}

}  // namespace
}  // namespace ckptd::config
