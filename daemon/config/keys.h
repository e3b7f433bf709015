// The table of all keys: it drives reading, flags, --help, --check-config and the documentation.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/result.h"
#include "daemon/config/config.h"
#include "daemon/config/node.h"

namespace ckptd::config {

/// What makes a changed value count: a reload of the running daemon, or only a restart.
enum class Change { restart, reload };

template <class Target>
struct Key {
  std::string name;  ///< within the target: "store.budget" of Config, "keep" of Preload
  std::string flag;  ///< with its dashes, or empty
  bool required = false;
  Change change = Change::restart;
  std::string meaning;
  std::function<Result<>(const Node&, Target&)> read;
  std::function<std::string(const Target&)> show;  ///< as TOML
  std::function<void(const Target& from, Target& to)> copy;

  std::string default_text() const { return required ? "required" : show(Target{}); }
};

const std::vector<Key<Config>>& config_keys();
const std::vector<Key<Preload>>& preload_keys();  ///< of each [[preload]]
const std::vector<Key<Engine>>& engine_keys();    ///< of each [[engine]]

}  // namespace ckptd::config
