// One validated, immutable value from file and flags; nothing else reads the environment.
//
// Pure but for reading the file: no output, no exceptions, no state. What needs the machine to be judged (does the
// group exist, is there a CUDA device, does a path fit a socket's 107 bytes) is judged by whoever uses the value.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace ckptd::config {

enum class DeviceKind { host, cuda, automatic };
enum class Lock { required, try_, off };
enum class FanOut { automatic, independent, broadcast };

struct Preload {
  std::string checkpoint;  ///< NAME@VERSION
  std::string source;
  bool keep = true;
};

struct Engine {
  std::string name, kind, endpoint, checkpoint;
  std::vector<std::string> devices;
};

struct Config {
  std::filesystem::path runtime_dir = "/run/ckptd";
  std::filesystem::path state_dir = "/var/lib/ckptd";
  std::string log_level = "info";
  std::string control_group;  ///< group of the control socket
  std::string rank_group;     ///< group of the ranks' sockets

  DeviceKind device = DeviceKind::automatic;
  unsigned host_devices = 1;

  std::uint64_t store_budget_bytes = 0;  ///< required
  std::uint64_t segment_bytes = 0;       ///< 0: from the budget
  Lock lock = Lock::required;
  bool huge_pages = true;

  std::vector<std::filesystem::path> source_roots;
  unsigned prefetch_readers = 0, prefetch_hashers = 0;
  bool direct_io = true;

  std::uint64_t bucket_bytes = 0;  ///< 0: chosen by size of the model, see docs
  std::uint64_t arena_bytes = 0;   ///< 0: what the plan wants, as far as the device has it
  FanOut fan_out = FanOut::automatic;

  std::chrono::milliseconds load_no_progress{60'000};
  std::chrono::milliseconds connect_timeout{300'000}, reload_timeout{120'000}, release_timeout{60'000},
      finish_timeout{600'000}, upload_timeout{60'000}, engine_timeout{1'800'000};
  std::chrono::milliseconds custody{1'800'000};  ///< how long a failed session's endpoint stays bound for its rank
  std::chrono::milliseconds shutdown{8'000};     ///< how long an orderly end waits for ranks

  std::string metrics_listen;  ///< empty: nowhere

  std::vector<Preload> preloads;
  std::vector<Engine> engines;
  std::size_t job_history = 200;
};

enum class Action { run, check, done };  ///< done: --help or --version was asked

struct CommandLine {
  Action action = Action::run;
  Config config;
  std::string answer;  ///< of check and done: what main prints to standard output before it ends with 0
};

/// Flags over file over defaults. Errors name file, line, column and key, or the flag, and show what is allowed;
/// unknown keys and flags are errors, with the nearest known one. Paths in the file are absolute; those of flags become
/// so.
Result<CommandLine> parse_command_line(int argc, const char* const* argv);

/// A configuration file that has these very values, as --check-config shows them.
std::string show(const Config& config);

/// What docs/configuration.md says of one key, in the order of show().
struct KeyDoc {
  std::string key;           ///< "store.budget", "engine.name" for each [[engine]]
  std::string flag;          ///< "--store-budget", or empty
  std::string default_text;  ///< as in a file, or "required"
  std::string meaning;
};
std::vector<KeyDoc> known_keys();

}  // namespace ckptd::config
