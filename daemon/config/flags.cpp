#include "daemon/config/flags.h"

#include <CLI/CLI.hpp>
#include <vector>

#include "common/version.h"
#include "daemon/config/keys.h"
#include "daemon/config/suggestion.h"

namespace ckptd::config {
namespace {

std::unexpected<Error> unexpected_argument(const std::string& argument) {
  if (!argument.starts_with('-'))
    return fail(ErrorKind::invalid_argument, "'{}': ckptd takes flags alone; see ckptd --help", argument);
  std::vector<std::string> known{"--config", "--check-config", "--help", "--version"};
  for (const auto& key : config_keys())
    if (!key.flag.empty()) known.push_back(key.flag);
  const auto flag = argument.substr(0, argument.find('='));
  return fail(ErrorKind::invalid_argument, "there is no flag {}; {}", flag, suggestion(flag, known));
}

}  // namespace

Result<Flags> read_flags(int argc, const char* const* argv) {
  const auto version = fmt::format("ckptd {}", kVersion);
  CLI::App app("Pushes checkpoints from pinned host memory into running inference engines.", "ckptd");
  Flags flags;
  app.allow_extras();
  app.set_help_flag("-h,--help", "Shows this and ends.");
  app.set_version_flag("--version", version, "Shows the version and ends.");
  auto* config = app.add_option("--config", flags.config_file, "Configuration file, TOML; flags go over it.");
  app.add_flag("--check-config", flags.check, "Checks file and flags, shows the values in effect and ends.");
  std::map<std::string, std::string> values;
  std::vector<std::pair<std::string, CLI::Option*>> options;
  for (const auto& key : config_keys())
    if (!key.flag.empty()) options.emplace_back(key.flag, app.add_option(key.flag, values[key.flag], key.meaning));
  try {
    if (argc > 0) app.parse(argc, argv);  // execve(2) allows an empty command line, the library does not
  } catch (const CLI::CallForHelp&) {
    flags.answer = app.help();
    return flags;
  } catch (const CLI::CallForVersion&) {
    flags.answer = version + "\n";
    return flags;
  } catch (const CLI::Error& error) {
    return fail(ErrorKind::invalid_argument, "{}; see ckptd --help", error.what());
  }
  if (auto extras = app.remaining(); !extras.empty()) return unexpected_argument(extras.front());
  if (config->count() > 0 && flags.config_file.empty())
    return fail(ErrorKind::invalid_argument, "--config needs the path of a file");
  for (const auto& [flag, option] : options)
    if (option->count() > 0) flags.values[flag] = values[flag];
  return flags;
}

}  // namespace ckptd::config
