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
enum class Prefault { off, background, before_ready };
enum class FanOut { automatic, independent, broadcast };
enum class Backend { automatic, local, nccl };
enum class Receipt { required, advisory };
enum class IoPriority { none, best_effort, idle };
enum class Wake { none, weights, all };

struct Preload {
  std::string checkpoint;  ///< NAME@VERSION
  std::string source;
  bool keep = true;
  bool operator==(const Preload&) const = default;
};

struct Engine {
  std::string name, kind, endpoint, checkpoint;
  std::vector<std::string> devices = {};
  std::string api_key_file = {}, admin_key_file = {};  ///< paths; empty: no such key
  std::string transfer = "auto";                       ///< auto, checkpoint-engine or native
  std::string target = {};  ///< NAME@VERSION, for an engine that has none yet; empty: none
  bool follow = true;
  std::string pause = "auto";  ///< fleet::Pause by name, or auto
  bool flush_cache = true;
  std::string on_failure = "repush";  ///< fleet::OnFailure by name
  Wake wake = Wake::none;
  bool operator==(const Engine&) const = default;
};

struct Config {
  std::filesystem::path runtime_dir = "/run/ckptd";
  std::filesystem::path state_dir = "/var/lib/ckptd";
  std::string log_level = "info";
  std::string control_group;  ///< group of the control socket
  std::string rank_group;     ///< group of the ranks' sockets

  DeviceKind device = DeviceKind::automatic;
  unsigned host_devices = 1;
  std::string cuda_library;               ///< empty: libcuda.so.1, wherever the dynamic linker finds it
  std::vector<std::string> cuda_devices;  ///< UUIDs; empty: all

  Backend collective = Backend::automatic;
  std::string nccl_library;  ///< empty: libnccl.so.2, wherever the dynamic linker finds it

  std::uint64_t store_budget_bytes = 0;  ///< required
  std::uint64_t segment_bytes = 0;       ///< 0: from the budget
  Lock lock = Lock::required;
  bool huge_pages = true;
  Prefault prefault = Prefault::background;

  std::vector<std::filesystem::path> source_roots;
  unsigned prefetch_readers = 0, prefetch_hashers = 0;  ///< 0: from the number of processors
  bool prefetch_io_uring = true;
  unsigned prefetch_queue_depth = 16;
  std::uint64_t prefetch_read_bytes = 8 << 20;
  std::uint64_t prefetch_max_bytes_per_second = 0;  ///< of all loads together; 0: no limit
  IoPriority prefetch_io_priority = IoPriority::none;
  int prefetch_nice = 0;
  bool direct_io = true;

  std::uint64_t bucket_bytes = 0;  ///< 0: chosen by size of the model, see docs
  std::uint64_t arena_bytes = 0;   ///< 0: what the plan wants, as far as the device has it
  bool keep_arena = true;          ///< between updates
  FanOut fan_out = FanOut::automatic;
  Receipt receipt = Receipt::required;

  std::chrono::milliseconds load_no_progress{60'000};
  std::chrono::milliseconds connect_timeout{300'000}, reload_timeout{120'000}, release_timeout{60'000},
      finish_timeout{600'000}, receipt_timeout{5'000}, upload_timeout{60'000}, engine_timeout{1'800'000};
  std::chrono::milliseconds engine_step_timeout{60'000};  ///< pausing, resuming, flushing: one short call
  std::chrono::milliseconds engine_connect_timeout{5'000}, ping_timeout{5'000}, answer_grace{10'000},
      rank_grace{500}, spread_grace{5'000}, nccl_start_timeout{60'000};
  std::chrono::milliseconds engine_poll{2'000}, engine_poll_slowest{15'000};
  std::chrono::milliseconds engine_retry{10'000}, engine_retry_slowest{600'000};
  std::chrono::milliseconds load_answer{2'000};
  std::chrono::milliseconds control_read_timeout{30'000}, control_handler_timeout{60'000},
      control_write_timeout{30'000}, control_drain{1'000}, control_bind_timeout{5'000};
  std::chrono::milliseconds custody{1'800'000};  ///< how long a failed session's endpoint stays bound for its rank
  std::chrono::milliseconds shutdown{8'000};     ///< how long an orderly end waits for ranks

  std::string metrics_listen;  ///< empty: nowhere

  std::vector<Preload> preloads;
  std::vector<Engine> engines;
  std::size_t job_history = 200;
  std::uint64_t record_memory_bytes = 64 << 20;  ///< records and traces of finished jobs
  bool probe_at_start = true;
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

/// What a reload makes of the configuration of a running daemon.
struct Reloaded {
  Config config;                           ///< `running`, with the wanted values of the keys that a reload applies
  std::vector<std::string> applied;        ///< keys that changed and are applied; "preload", "engine" for the lists
  std::vector<std::string> needs_restart;  ///< keys that changed and keep their old value
};

/// Decided key by key, as keys.cpp says. An error when wanted values contradict running ones that only a restart
/// changes.
Result<Reloaded> reload(const Config& running, const Config& wanted);

/// What docs/configuration.md says of one key, in the order of show().
struct KeyDoc {
  std::string key;           ///< "store.budget", "engine.name" for each [[engine]]
  std::string flag;          ///< "--store-budget", or empty
  std::string default_text;  ///< as in a file, or "required"
  std::string change;        ///< what makes a changed value count: "reload" or "restart"
  std::string meaning;
};
std::vector<KeyDoc> known_keys();

}  // namespace ckptd::config
