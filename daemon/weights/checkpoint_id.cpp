#include "daemon/weights/checkpoint_id.h"

#include <algorithm>

namespace ckptd::weights {
namespace {

bool is_word(std::string_view text) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  return !text.empty() && text != "." && text != ".." && std::ranges::all_of(text, allowed);
}

}  // namespace

Result<std::string> parse_checkpoint_name(std::string_view text) {
  auto rest = text;
  bool good = text.size() <= 256;
  for (bool more = true; good && more;) {
    auto slash = rest.find('/');
    more = slash != std::string_view::npos;
    good = is_word(rest.substr(0, slash));
    if (more) rest.remove_prefix(slash + 1);
  }
  if (!good)
    return fail(ErrorKind::invalid_argument,
                "'{}' is not a checkpoint name: write words of letters, digits, '.', '_' and '-', separated by '/', "
                "at most 256 bytes, as in Qwen/Qwen3-8B",
                text);
  return std::string(text);
}

Result<CheckpointId> CheckpointId::of(std::string_view name, std::string_view version) {
  auto checked = CKPTD_TRY(parse_checkpoint_name(name));
  if (!is_word(version) || version.size() > 128)
    return fail(ErrorKind::invalid_argument,
                "'{}' is not a version: write 1 to 128 letters, digits, '.', '_' and '-', as in step-120", version);
  return CheckpointId{std::move(checked), std::string(version)};
}

Result<CheckpointId> CheckpointId::parse(std::string_view text) {
  auto at = text.rfind('@');
  if (at == std::string_view::npos)
    return fail(ErrorKind::invalid_argument, "'{}' names no version: write NAME@VERSION, as in Qwen/Qwen3-8B@step-120",
                text);
  return of(text.substr(0, at), text.substr(at + 1));
}

}  // namespace ckptd::weights
