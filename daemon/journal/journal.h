// What must outlive the process: engine records, their targets, and the updates that were open.
//
// One file, <state-dir>/state.json: a JSON object with a format number, written whole and atomically on every change
// (it is small and changes a few times an update). Safe from any thread; change() blocks for the disk's sync,
// contents() for nothing. Only one process may hold a state directory: it is locked, by flock(2) on <state-dir>/lock,
// while the Journal lives. A crash in between leaves the old or the new state, and perhaps a state.json.new, which is
// overwritten.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/listeners.h"
#include "common/process.h"
#include "common/result.h"

namespace ckptd::journal {

inline constexpr int kFormat = 2;  ///< 1 had no life cycle and no keys

/// A version as an engine has it: identity and schema tell whether it is still the same one. With it stays how it was
/// given, so that whoever gives it again by themselves does it in the same way.
struct VersionRecord {
  std::string id;        ///< NAME@VERSION
  std::string identity;  ///< hexadecimal
  std::string schema;
  std::string weight_version = {};  ///< the label that the engine is asked to tell; empty: VERSION
  bool forced = false;              ///< it was given with --force
  bool operator==(const VersionRecord&) const = default;
};

struct EngineRecord {
  std::string name = {};
  std::string kind = {};
  std::string endpoint = {};
  std::string checkpoint = {};
  std::vector<std::string> devices = {};  ///< uuids; empty: all
  bool follow = true;           ///< the daemon may act by itself on it
  std::string wake = "none";    ///< a sleeping server that is to be given a version: none, weights or all of it is woken
  std::optional<VersionRecord> target = {};
  std::optional<VersionRecord> serving = {};   ///< what it was given last, in full
  std::optional<VersionRecord> previous = {};  ///< what it was given before that: where a rollback goes
  std::string poisoned = {};  ///< empty, or why it may hold a mixture
  std::optional<ProcessId> listener = {};  ///< the server that was given `serving`, or was poisoned
  std::string label = {};                  ///< the weight version that it told afterwards; empty: none
  std::string lost = {};                   ///< empty, or why it does not hold `serving` any more
  bool changed_by_others = false;          ///< that is because somebody else gave it weights
  bool given_asleep = false;               ///< it slept when it was given `serving`, for all that is known, and was not seen awake since
  bool drained = false;                    ///< out of service until an operator says otherwise
  std::string pause = "auto";         ///< what becomes of requests during an update: fleet::Pause by name, or auto
  bool flush_cache = true;            ///< after an update
  std::string on_failure = "repush";  ///< fleet::OnFailure by name
  std::string paused = {};            ///< empty, or how ckptd has paused it: then it is ckptd that resumes it
  bool held = false;                  ///< its update failed, and it is to be left as it is until somebody says otherwise
  std::string api_key_file = {}, admin_key_file = {};  ///< paths, never the keys; empty: none. Since format 2
  std::string transfer = "auto";  ///< how a vLLM is given weights: auto, checkpoint-engine or native
  bool operator==(const EngineRecord&) const = default;
};

enum class Phase { opening, pushing };  ///< pushing: some rank was sent a bucket

struct SessionRecord {
  std::string endpoint = {};
  std::string device = {};
  bool retired = false;  ///< of an update that succeeded: bound a little longer, for a rank that comes once more
  bool operator==(const SessionRecord&) const = default;
};

struct UpdateRecord {
  std::string job = {};
  std::string engine = {};
  std::string version = {};  ///< NAME@VERSION
  Phase phase = Phase::opening;
  std::vector<SessionRecord> sessions = {};
  bool operator==(const UpdateRecord&) const = default;
};

struct Contents {
  std::vector<EngineRecord> engines = {};
  std::vector<UpdateRecord> updates = {};      ///< open ones; at start: what a predecessor left
  std::vector<SessionRecord> in_custody = {};  ///< of failed updates: a rank may still wait on them
  bool drained = false;                        ///< the whole node is out of service
  bool operator==(const Contents&) const = default;
};

class Journal {
 public:
  /// Reads what is there. unavailable when another process holds the directory, corrupt when the file is damaged
  /// (naming the file and the byte, or the member that is wrong), unsupported for a newer format number. A missing
  /// directory is created with mode 0750.
  static Result<std::unique_ptr<Journal>> open(const std::filesystem::path& directory);
  ~Journal();

  Contents contents() const;

  /// Replaces the contents by what `change` makes of a copy and writes them; on an error nothing has changed. Changes
  /// happen one after the other; `change` may call contents() but not change(). Bytes of a text that are not UTF-8
  /// become U+FFFD. internal when `change` throws or makes what could not be read back, such as two engines of one
  /// name.
  Result<> change(const std::function<void(Contents&)>& change);

  /// As change(), of what has happened already and is true whether the disk takes it or not: when it cannot be written, the
  /// contents have changed all the same, and the next change writes it with its own. Returns what was wrong with the disk.
  Result<> note(const std::function<void(Contents&)>& change);

  /// Told, without any lock held, after every change of the contents.
  [[nodiscard]] Subscription on_change(std::function<void()> listener);

 private:
  Journal();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ckptd::journal
