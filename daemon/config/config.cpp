#include "daemon/config/config.h"

#include <exception>

#include "daemon/config/draft.h"
#include "daemon/config/flags.h"
#include "daemon/config/keys.h"

namespace ckptd::config {
namespace {

Node node_of_flag(std::string text) {
  Node node;
  node.kind = Node::Kind::string;
  node.what = "text";
  node.from_flag = true;
  node.text = std::move(text);
  return node;
}

Result<> apply(const Flags& flags, Draft& draft) {
  for (const auto& key : config_keys()) {
    auto value = flags.values.find(key.flag);
    if (value == flags.values.end()) continue;
    if (auto read = key.read(node_of_flag(value->second), draft.config); !read)
      return std::unexpected(read.error().within(key.flag));
    draft.origins[key.name] = key.flag;
  }
  return {};
}

Result<CommandLine> parse(int argc, const char* const* argv) {
  const auto flags = CKPTD_TRY(read_flags(argc, argv));
  if (!flags.answer.empty()) return CommandLine{.action = Action::done, .config = {}, .answer = flags.answer};
  Draft draft;
  if (!flags.config_file.empty()) CKPTD_TRY(read_file(flags.config_file, draft));
  CKPTD_TRY(apply(flags, draft));
  CKPTD_TRY(check(draft));
  CommandLine line;
  line.action = flags.check ? Action::check : Action::run;
  line.config = std::move(draft.config);
  if (flags.check)
    line.answer = fmt::format("{}: ok\n\n{}", draft.file.empty() ? "command line" : draft.file, show(line.config));
  return line;
}

}  // namespace

Result<CommandLine> parse_command_line(int argc, const char* const* argv) {
  try {
    return parse(argc, argv);
  } catch (const std::exception& error) {
    return fail(ErrorKind::internal, "reading the configuration ended with an exception: {}", error.what());
  }
}

}  // namespace ckptd::config
