// The control API as values, and their JSON. proto/control/openapi.yaml describes the same to people and programs;
// daemon/operations fills these values, daemon/control and ctl/ move them. Bytes are numbers, times are RFC 3339 in
// UTC, an absent optional is an absent member.
//
// Parsing a request refuses unknown members by name, wrong types and values out of range with a sentence that names
// the member. Parsing an answer (ctl) ignores unknown members, so that an older ckptctl can talk to a newer daemon.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"
#include "proto/control/record.h"

namespace ckptd::proto::control {

using Time = std::chrono::system_clock::time_point;

// ---- requests -------------------------------------------------------------------------------------------------------

/// What may leave when a load does not fit. availability: versions that nobody holds on to. resource: also those of the
/// same NAME that engines serve or should serve, so that there is no fallback until the update.
enum class LoadPolicy { availability, resource };
std::string_view name_of(LoadPolicy policy);
std::optional<LoadPolicy> load_policy_named(std::string_view name);

/// PUT /v1/checkpoints/{name}/versions/{version}
///     {"source":{"uri":"file:///..."},"keep":true,"policy":"availability"}
struct LoadRequest {
  std::string name, version;  ///< from the path
  std::string source_uri;
  bool keep = false;
  std::string idempotency_key;  ///< header Idempotency-Key
  LoadPolicy policy = LoadPolicy::availability;
};

/// POST /v1/updates   {"checkpoint":"NAME","version":"VERSION","engines":["e"],"dry_run":false,"force":false,
///                     "bucket_bytes":N,"flush_cache":true,"pause":"retract","on_failure":"repush",
///                     "weight_version":"W","max_unavailable":1,"trigger":"external","sessions":2}
struct UpdateRequest {
  std::string name, version;
  std::vector<std::string> engines;  ///< empty: those whose checkpoint is `name`
  bool dry_run = false;
  bool force = false;  ///< also what the engine may not be able to load, or is known to load wrongly
  std::optional<std::uint64_t> bucket_bytes;
  std::optional<bool> flush_cache = {};  ///< absent, of this and the next two: as each engine is registered
  std::optional<std::string> pause = {};
  std::optional<std::string> on_failure = {};
  std::string weight_version = {};       ///< the label that engines tell; empty: VERSION
  std::optional<std::uint64_t> max_unavailable = {};  ///< 0: all at once; absent: 1 when several serve
  bool external = false;                     ///< somebody else calls the engines, and is given the endpoints for that
  std::optional<std::uint64_t> sessions = {};  ///< external: that each rank opens; absent: 1
  std::string idempotency_key = {};
};

/// The kinds of engines, for whoever only speaks to the daemon; the daemon's own list is fleet::known_kinds(), and a test
/// compares them.
inline constexpr std::array<std::string_view, 3> kEngineKinds{"sglang", "vllm", "lmdeploy"};

/// auto takes the server's own way where it offers one.
inline constexpr std::array<std::string_view, 3> kTransfers{"auto", "checkpoint-engine", "native"};

/// PUT /v1/engines/{name}   {"kind":"sglang","endpoint":"http://127.0.0.1:30000","checkpoint":"NAME","devices":["HOST-0"],
///                           "api_key_file":"/etc/ckptd/sglang.key","admin_key_file":"/etc/ckptd/sglang-admin.key",
///                           "target":"NAME@VERSION","follow":true,"wake":"none","transfer":"auto"}
struct EngineRequest {
  std::string name, kind, endpoint, checkpoint;
  std::vector<std::string> devices = {};  ///< empty: all
  std::string api_key_file = {}, admin_key_file = {};  ///< absolute paths on the daemon's machine; empty: no such key
  std::string transfer = "auto";                       ///< one of kTransfers: how a vLLM is given weights
  std::string target = {};      ///< NAME@VERSION for an engine that has no target yet; empty: none
  bool follow = true;           ///< the daemon brings it to its target by itself
  std::string wake = "none";    ///< of a sleeping server that is to be given another version: none, weights, all
  std::string pause = "auto";   ///< during an update: none, abort, retract, in_place, keep, wait, or auto
  bool flush_cache = true;      ///< after an update
  std::string on_failure = "repush";  ///< or hold
};

/// PATCH /v1/engines/{name}   {"target":"NAME@VERSION"}
struct EngineChange {
  std::string target;
};

/// POST /v1/rollbacks   {"engines":["e"],"force":false}
struct RollbackRequest {
  std::vector<std::string> engines;  ///< empty: all that have a version to go back to
  bool force = false;
  std::string idempotency_key;
};

// ---- answers --------------------------------------------------------------------------------------------------------

/// Where a job's time went; stages may overlap.
struct StageTime {
  std::string name;  ///< "read", "upload": the same words as the metrics' labels
  double seconds = 0;
  std::uint64_t bytes = 0;
};

/// What somebody who calls an engine themselves hands to it; or why there is nothing to hand.
struct EngineHandles {
  std::string engine;
  std::map<std::string, std::string> zmq_handles = {};  ///< device uuid -> endpoint, as the engine's request wants them
  std::optional<Error> error = {};
  std::vector<std::string> warnings = {};  ///< one sentence each: what may go wrong with the call
};

struct Job {
  std::string id, kind, subject;
  std::string state;  ///< running, succeeded, failed, cancelled
  std::string stage;
  std::uint64_t done_bytes = 0, total_bytes = 0;
  std::optional<Error> error;
  std::string result;  ///< a JSON object as text, once succeeded; embedded as an object on the wire
  Time started{};
  std::optional<Time> ended;
  bool cancel_requested = false;
  std::vector<StageTime> stages;  ///< told towards the end
  std::optional<JobRecord> record = {};  ///< ended, and asked for alone: where its time went
  std::vector<EngineHandles> engines = {};  ///< of an update with an external trigger, while it runs
};

struct TensorInfo {
  std::string name, dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t bytes = 0;
  std::string digest;  ///< hexadecimal
};

struct Version {
  std::string name, version;
  std::string state;  ///< loading, resident, failed, evicted
  std::string source_uri, job, identity, schema;
  std::uint64_t tensor_count = 0, tensor_bytes = 0, store_bytes = 0;
  std::uint64_t shared_bytes = 0;  ///< of store_bytes: segments that other versions hold as well
  bool kept = false;
  std::vector<std::string> leased_by;
  std::optional<Error> error;
  Time since{};
  std::optional<Time> last_use = std::nullopt;  ///< by a load or an update, since the daemon started
  std::vector<TensorInfo> tensors;  ///< only when asked for with ?tensors=true
};

struct Engine {
  std::string name, kind, endpoint, checkpoint;
  std::vector<std::string> devices;
  std::string target, serving;  ///< NAME@VERSION, or empty
  std::string state;            ///< waiting, serving, updating, asleep, poisoned, draining, gone
  std::string poisoned;         ///< why, or empty
  std::string job;              ///< updating: who
  std::string previous = {};    ///< where a rollback goes: NAME@VERSION, or empty
  bool ready = false;           ///< requests may be sent to it
  std::string why = {};         ///< of the state and of what comes next, one sentence, or empty
  std::string next = {};        ///< nothing, push, wake-then-push, wait, tell (a person has to do something)
  std::optional<Time> since = {};     ///< when it came into this state
  std::optional<Time> retry_at = {};  ///< when the next attempt is due, after one that failed
  std::string last_error = {};  ///< of the last update that failed, until one succeeds
  bool follow = true, drained = false;
  std::string pause = "auto", on_failure = "repush";
  bool flush_cache = true;
  std::string paused = {};            ///< how ckptd has paused it, or empty
  bool held = false;                  ///< an update failed, and it is left as it is
  std::string wake = {};
  std::string label = {};       ///< the weight version that its server told last
  int pid = 0;                  ///< who listens at its endpoint; 0: cannot be seen from here
  std::string server = {};      ///< the version of its software, as it tells
  std::vector<std::string> warnings = {};  ///< of the way in which it was started
  std::uint64_t restarts = 0;         ///< of its server that were noticed, since the daemon started
  std::uint64_t own_updates = 0, own_failures = 0;  ///< that the daemon began by itself
  std::string api_key_file = {}, admin_key_file = {};  ///< paths, never the keys
  std::string transfer = "auto";
  std::string target_label = {};  ///< that it is asked to tell with its target; empty: the target's VERSION
  bool target_forced = false;     ///< its target was given with --force
  bool operator==(const Engine&) const = default;
};

/// Device memory that a rank may still map, and that can therefore be neither freed nor used.
struct Quarantine {
  std::uint64_t bytes = 0;
  std::string engine;
  std::vector<int> pids;  ///< whose end ends it; 0: a process outside the daemon's pid namespace
  std::string why;        ///< one sentence
  Time since{};
};

/// That nothing of a device works any more until the daemon is restarted.
struct LostDevice {
  Time since{};
  std::string why;     ///< one sentence: the call that failed first, and what to do
  std::string vendor;  ///< the driver's own word for it
};

struct DeviceStatus {
  std::string uuid, kind;
  std::uint64_t free_bytes = 0;
  std::uint64_t arena_bytes = 0;       ///< in running updates
  std::uint64_t kept_arena_bytes = 0;  ///< waiting for the next update
  std::uint64_t quarantined_bytes = 0;  ///< the sum of what follows
  std::vector<Quarantine> quarantine = {};
  std::optional<LostDevice> lost = {};
};

/// POST /v1/store/trim: what was given back.
struct Trimmed {
  std::uint64_t bytes = 0;         ///< idle memory of the store, and kept arenas
  std::uint64_t communicators = 0; ///< idle sets of NCCL's, whose memory of the GPUs nobody counts
};

/// POST /v1/reload, and the last one in Status: what became of reading the configuration again.
struct Reload {
  Time at{};
  std::vector<std::string> applied = {};        ///< keys that changed and are in effect
  std::vector<std::string> needs_restart = {};  ///< keys that changed and keep their value until a restart
  std::string failed = {};                      ///< why everything stayed as it was, or empty
};

/// How far the store's budget was made ready ahead of its use.
struct PrefaultInfo {
  std::string policy;  ///< off, background, before-ready
  std::string state;   ///< off, running, done, ended
  std::uint64_t ready_bytes = 0, total_bytes = 0;
  std::string why;     ///< ended: why not all is ready
};

struct Status {
  std::string daemon_version;
  int pid = 0;
  Time started{};
  bool ready = false;
  bool drained = false;                ///< the node is out of service
  std::uint64_t preloads = 0;          ///< how many the configuration has
  std::vector<std::string> not_ready;  ///< one sentence each: a configured preload that is not resident, prefaulting
  std::vector<std::string> warnings;   ///< one sentence each: what a person should know though the daemon serves
  PrefaultInfo prefault;
  std::uint64_t budget_bytes = 0, segment_bytes = 0, lent_bytes = 0, idle_bytes = 0, locked_bytes = 0,
                huge_page_bytes = 0;
  std::string lock;  ///< required, try, off
  std::uint64_t versions_resident = 0;
  std::uint64_t saved_bytes = 0;  ///< that versions would hold more if they shared nothing
  std::vector<DeviceStatus> devices;
  std::vector<Engine> engines;
  std::vector<std::string> running_jobs;
  std::vector<Peak> peaks = {};              ///< measured by a probe; empty: none yet
  std::vector<std::string> in_custody;  ///< "HOST-1 of sglang-0": failed sessions whose rank is not gone yet
  std::optional<Reload> last_reload;
};

/// What an update would do, for --dry-run.
struct UpdatePreview {
  std::string checkpoint;  ///< NAME@VERSION
  struct PerEngine {
    std::string engine, fan_out;
    std::vector<std::string> devices;
    std::uint64_t buckets = 0, bucket_bytes = 0, arena_bytes = 0, tensor_bytes = 0, tensors = 0, copy_runs = 0;
    std::string serving;  ///< what it serves now
    std::vector<std::string> warnings;
  };
  std::vector<PerEngine> engines;
};

// ---- JSON -----------------------------------------------------------------------------------------------------------

Result<LoadRequest> parse_load_request(std::string_view body);      ///< name and version are left empty
Result<UpdateRequest> parse_update_request(std::string_view body);  ///< "checkpoint" may also be NAME@VERSION
Result<EngineRequest> parse_engine_request(std::string_view body);  ///< name is left empty
Result<EngineChange> parse_engine_change(std::string_view body);
Result<RollbackRequest> parse_rollback_request(std::string_view body);
Result<bool> parse_keep_request(std::string_view body);             ///< {"kept":true}

nlohmann::json to_json(const LoadRequest&);
nlohmann::json to_json(const UpdateRequest&);
nlohmann::json to_json(const EngineRequest&);
nlohmann::json to_json(const EngineChange&);
nlohmann::json to_json(const RollbackRequest&);
nlohmann::json to_json(const Job&);
nlohmann::json to_json(const Version&);
nlohmann::json to_json(const Engine&);
nlohmann::json to_json(const Reload&);
nlohmann::json to_json(const Trimmed&);
nlohmann::json to_json(const Status&);
nlohmann::json to_json(const UpdatePreview&);
/// {"error":{"kind":"conflict","sentence":"...","vendor":"...","facts":{"job":"load-17"}}}
nlohmann::json to_json(const Error&);

Result<Job> parse_job(const nlohmann::json&);
Result<Version> parse_version(const nlohmann::json&);
Result<Engine> parse_engine(const nlohmann::json&);
Result<Reload> parse_reload(const nlohmann::json&);
Result<Status> parse_status(const nlohmann::json&);
Result<UpdatePreview> parse_update_preview(const nlohmann::json&);
Error parse_error(const nlohmann::json&);  ///< never fails: what is no error object becomes one that quotes it

std::string show_time(Time time);  ///< RFC 3339, UTC, seconds
std::optional<Time> parse_time(std::string_view text);

}  // namespace ckptd::proto::control
