// NAME@VERSION: the one place of its grammar.
//
//   NAME     1 to 256 bytes of [A-Za-z0-9._-] in segments separated by '/': Qwen/Qwen3-8B. No segment is empty, "." or "..".
//   VERSION  1 to 128 bytes of [A-Za-z0-9._-], and neither "." nor "..".
#pragma once

#include <compare>
#include <string>
#include <string_view>

#include "common/result.h"

namespace ckptd::weights {

struct CheckpointId {
  std::string name;
  std::string version;

  static Result<CheckpointId> parse(std::string_view text);
  /// From two parts that came apart, as in a URL.
  static Result<CheckpointId> of(std::string_view name, std::string_view version);

  std::string show() const { return name + "@" + version; }
  auto operator<=>(const CheckpointId&) const = default;
};

/// A NAME alone, as an engine's checkpoint; the error shows the grammar.
Result<std::string> parse_checkpoint_name(std::string_view text);

}  // namespace ckptd::weights
