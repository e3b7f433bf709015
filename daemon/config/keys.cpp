#include "daemon/config/keys.h"

#include <utility>

#include "common/units.h"
#include "daemon/config/codecs.h"

namespace ckptd::config {
namespace {

/// Whoever writes Change::reload sees to it that the value is read anew: by assembly.cpp, which hands
/// operations::Options over on every reload.
template <class Target, class Value>
Key<Target> key(std::string name, std::string flag, Value Target::*member, Codec<Value> codec, std::string meaning,
                Change change = Change::restart) {
  return {.name = std::move(name),
          .flag = std::move(flag),
          .required = false,
          .change = change,
          .meaning = std::move(meaning),
          .read = [member, parse = codec.parse](const Node& node, Target& target) -> Result<> {
            target.*member = CKPTD_TRY(parse(node));
            return {};
          },
          .show = [member, show = codec.show](const Target& target) { return show(target.*member); },
          .copy = [member](const Target& from, Target& to) { to.*member = from.*member; }};
}

template <class Target>
Key<Target> required(Key<Target> key) {
  key.required = true;
  return key;
}

std::vector<Key<Config>> make_config_keys() {
  using C = Config;
  return {
      key("runtime_dir", "--runtime-dir", &C::runtime_dir, path(),
          "Directory of control.sock and of the ranks' sockets; short, since a socket's path has at most 107 bytes."),
      key("state_dir", "--state-dir", &C::state_dir, path(),
          "Directory of what outlives the daemon: engines, their targets, updates that broke off."),
      key("log_level", "--log-level", &C::log_level,
          choice<std::string>(
              {{"trace", "trace"}, {"debug", "debug"}, {"info", "info"}, {"warn", "warn"}, {"error", "error"}}),
          "The least that is logged: trace, debug, info, warn or error.", Change::reload),
      key("control_group", "", &C::control_group, text(true),
          "Group that may use control.sock; empty: the group of the daemon."),
      key("rank_group", "", &C::rank_group, text(true),
          "Group that the inference processes belong to, which may open the ranks' sockets; empty: the group of the "
          "daemon."),

      key("device.kind", "--device", &C::device,
          choice<DeviceKind>({{"host", DeviceKind::host}, {"cuda", DeviceKind::cuda}, {"auto", DeviceKind::automatic}}),
          "What holds the buckets: host (memory that stands in for a GPU), cuda, or auto (cuda where there is one)."),
      key("device.host_devices", "--host-devices", &C::host_devices, count<unsigned>(1, 64),
          "How many host devices there are, named HOST-0, HOST-1 and so on; 1 to 64."),
      key("cuda.library", "", &C::cuda_library, text(true),
          "Path of CUDA's driver library; empty: libcuda.so.1, wherever the dynamic linker finds it."),
      key("cuda.devices", "", &C::cuda_devices, list(text(false)),
          "UUIDs of the GPUs to use, as nvidia-smi -L shows them, such as GPU-12345678-90ab-cdef-1234-567890abcdef; empty: "
          "all that the driver shows."),

      key("collective.backend", "", &C::collective,
          choice<Backend>({{"auto", Backend::automatic}, {"local", Backend::local}, {"nccl", Backend::nccl}}),
          "What spreads buckets between devices with broadcast: local (copies from device to device), nccl, or auto (nccl "
          "where there are several GPUs and a usable libnccl, else local, and the log says why)."),
      key("nccl.library", "", &C::nccl_library, text(true),
          "Path of NCCL's library, 2.22.3 or later, such as .../site-packages/nvidia/nccl/lib/libnccl.so.2 of an engine; "
          "empty: libnccl.so.2, wherever the dynamic linker finds it."),

      required(key("store.budget", "--store-budget", &C::store_budget_bytes, size(false),
                   "Host memory that weights may take, pinned. The sum of the versions that shall be resident at once: "
                   "for updates from one version to the next, twice the size of the model's files.")),
      key("store.segment", "", &C::segment_bytes, size(true),
          "Unit in which the store takes memory, a multiple of 4096 bytes and at least 64KiB; auto: by the budget."),
      key("store.lock", "--lock", &C::lock,
          choice<Lock>({{"required", Lock::required}, {"try", Lock::try_}, {"off", Lock::off}}),
          "Whether memory is locked against swapping: required (else the start fails), try (else a warning) or off."),
      key("store.huge_pages", "", &C::huge_pages, truth(),
          "Takes hugetlb pages for segments where the machine has a pool of them."),
      key("store.prefault", "--prefault", &C::prefault,
          choice<Prefault>({{"off", Prefault::off},
                            {"background", Prefault::background},
                            {"before-ready", Prefault::before_ready}}),
          "Whether the budget is touched and locked ahead of the first load: off, background (at low priority, loads go "
          "first) or before-ready (readiness waits for it)."),

      key("source.roots", "", &C::source_roots, list(path()),
          "Directories that a client's load may name, with all below; empty: whatever the daemon's uid can read.",
          Change::reload),
      key("source.direct_io", "", &C::direct_io, truth(), "Reads past the page cache where the file system allows it.",
          Change::reload),

      key("prefetch.readers", "", &C::prefetch_readers, count<unsigned>(0, 64),
          "Threads that read files during a load; 0: chosen by the number of cores.", Change::reload),
      key("prefetch.hashers", "", &C::prefetch_hashers, count<unsigned>(0, 64),
          "Threads that hash what was read; 0: chosen by the number of cores.", Change::reload),
      key("prefetch.io_uring", "", &C::prefetch_io_uring, truth(),
          "Queues direct reads in the kernel where kernel, sandbox and file system allow it; false: threads with "
          "pread.", Change::reload),
      key("prefetch.queue_depth", "", &C::prefetch_queue_depth, count<unsigned>(1, 1024),
          "Reads of a load that are under way at once, with io_uring; 1 to 1024.", Change::reload),
      key("prefetch.read_bytes", "", &C::prefetch_read_bytes, size_between(64 * kKiB, 256 * kMiB),
          "Bytes of one read, 64KiB to 256MiB.", Change::reload),
      key("prefetch.max_bytes_per_second", "", &C::prefetch_max_bytes_per_second, rate(kMiB),
          "What all loads together may read in a second, at least 1MiB, from disk or page cache; unlimited: no bound.",
          Change::reload),
      key("prefetch.io_priority", "", &C::prefetch_io_priority,
          choice<IoPriority>({{"none", IoPriority::none},
                              {"best-effort", IoPriority::best_effort},
                              {"idle", IoPriority::idle}}),
          "How a load's reads stand behind those of others: none (as the daemon's), best-effort (last in its class) or "
          "idle (only when nobody else reads). Disks whose scheduler is none or kyber ignore it.", Change::reload),
      key("prefetch.nice", "", &C::prefetch_nice, count<int>(0, 19),
          "Nice value of the threads of a load, 0 to 19: 0 leaves them at the daemon's own, 19 leaves the processors to "
          "whoever else wants them.",
          Change::reload),

      key("push.bucket", "", &C::bucket_bytes, size(true),
          "Unit of upload and reload; auto: by the size of the model. A tensor larger than this gets a bucket of its "
          "own.", Change::reload),
      key("push.arena", "", &C::arena_bytes, size(true),
          "Device memory that an update takes on each device, at least one bucket; auto: what the plan wants, as far "
          "as the device has it. With keep_arena a size is allocated when the daemon starts.", Change::reload),
      key("push.keep_arena", "", &C::keep_arena, truth(),
          "Keeps the arena of a device for the next update, which then starts at once and cannot find its memory taken; "
          "`ckptctl trim` frees it. false: freed after each update."),
      key("push.fan_out", "", &C::fan_out,
          choice<FanOut>({{"auto", FanOut::automatic},
                          {"independent", FanOut::independent},
                          {"broadcast", FanOut::broadcast}}),
          "How buckets reach several devices: independent (each uploads all), broadcast (each uploads its share and "
          "spreads it) or auto.", Change::reload),
      key("push.receipt", "", &C::receipt,
          choice<Receipt>({{"required", Receipt::required}, {"advisory", Receipt::advisory}}),
          "Whether the arena of a GPU is used again only after each rank was seen to unmap it: required (else it goes into "
          "quarantine, with a warning) or advisory (a rank that cannot tell, because of another uid or a /dev/shm of its "
          "own, is believed when it acknowledges the release).", Change::reload),

      key("watch.poll", "", &C::engine_poll, duration(),
          "How often each engine is looked at.", Change::reload),
      key("watch.poll_slowest", "", &C::engine_poll_slowest, duration(),
          "How seldom at most while it cannot be reached: the time between two looks doubles from watch.poll up to this.",
          Change::reload),
      key("watch.retry", "", &C::engine_retry, duration(),
          "How long the daemon waits after an update of an engine that failed before it begins one by itself.",
          Change::reload),
      key("watch.retry_slowest", "", &C::engine_retry_slowest, duration(),
          "How long at most: the time doubles with every failure in a row, from watch.retry up to this.",
          Change::reload),

      key("timeouts.load_no_progress", "", &C::load_no_progress, duration(),
          "A load fails when no byte has arrived for this long; there is no limit on its total time.",
          Change::reload),
      key("timeouts.load_answer", "", &C::load_answer, duration(),
          "How long a request to load waits for an early refusal before it is answered with the running job.",
          Change::reload),
      key("timeouts.connect", "", &C::connect_timeout, duration(),
          "How long each rank may take to connect and open its handle.", Change::reload),
      key("timeouts.reload", "", &C::reload_timeout, duration(), "How long a rank may take to load one bucket.",
          Change::reload),
      key("timeouts.release", "", &C::release_timeout, duration(),
          "How long a rank may take to let go of the arena after the last bucket; while its worker may be one that runs "
          "the post hook there (checkpoint-engine before 0.4.0), timeouts.finish is added.", Change::reload),
      key("timeouts.finish", "", &C::finish_timeout, duration(),
          "How long a rank may take to process its weights after the last bucket.", Change::reload),
      key("timeouts.engine_step", "", &C::engine_step_timeout, duration(),
          "One of the short calls to an engine around an update: to pause it, to resume it, to flush its cache, to set its "
          "weight version.",
          Change::reload),
      key("timeouts.receipt", "", &C::receipt_timeout, duration(),
          "How long a rank may take to unmap the arena of a GPU after it has finished.", Change::reload),
      key("timeouts.upload", "", &C::upload_timeout, duration(), "How long the device may take to copy one bucket.",
          Change::reload),
      key("timeouts.engine", "", &C::engine_timeout, duration(),
          "How long the engine's answer to an update may take in all.", Change::reload),
      key("timeouts.engine_connect", "", &C::engine_connect_timeout, duration(),
          "How long it may take to reach an engine's HTTP API, within its other deadlines."),
      key("timeouts.ping", "", &C::ping_timeout, duration(),
          "How long an engine may take to say that it lives, before an update.",
          Change::reload),
      key("timeouts.answer_grace", "", &C::answer_grace, duration(),
          "How long the engine may still answer after its ranks have failed, and ranks may go on after it has answered.",
          Change::reload),
      key("timeouts.rank_grace", "", &C::rank_grace, duration(),
          "How long ranks may still tell why after their engine has said no.",
          Change::reload),
      key("timeouts.spread", "", &C::spread_grace, duration(),
          "With broadcast: how long a device whose part failed waits for others that still copy from it, and for NCCL to "
          "let go of it."),
      key("timeouts.nccl_start", "", &C::nccl_start_timeout, duration(),
          "With NCCL: how long the first update of some devices, or of a vLLM that takes weights by NCCL, waits for "
          "their communicators."),
      key("timeouts.custody", "", &C::custody, duration(),
          "How long the socket of a failed session stays bound, to tell its rank that it failed."),
      key("timeouts.shutdown", "", &C::shutdown, duration(),
          "How long an orderly end waits for ranks to be told; less than the 10 s that engines are promised.",
          Change::reload),
      key("timeouts.control_read", "", &C::control_read_timeout, duration(),
          "How long a client of control.sock may take to send a request."),
      key("timeouts.control_handler", "", &C::control_handler_timeout, duration(),
          "How long the daemon itself may take to answer one, waits that the client asked for excepted."),
      key("timeouts.control_write", "", &C::control_write_timeout, duration(),
          "How long a client may take to read an answer."),
      key("timeouts.control_drain", "", &C::control_drain, duration(),
          "How long an orderly end waits for answers that are on their way."),
      key("timeouts.control_bind", "", &C::control_bind_timeout, duration(),
          "How long a start waits for another one in the same directory."),

      key("metrics.listen", "--metrics-listen", &C::metrics_listen, listening_place(),
          "Where a monitoring system may read /metrics, /healthz and /readyz, without a password: 127.0.0.1:9464, "
          "[::1]:9464 or unix:/PATH (of the control group); port 0 takes a free one and logs it; empty: nowhere."),

      key("jobs.history", "", &C::job_history, count<std::size_t>(1, 100'000),
          "Finished jobs that are remembered; 1 to 100000."),
      key("jobs.record_memory", "", &C::record_memory_bytes, size(false),
          "Memory that the records and traces of finished jobs may take; when it is short, the oldest traces go first."),

      key("probe.at_start", "", &C::probe_at_start, truth(),
          "Measures the machine's own peaks once, in the background and only while nothing runs, if they are not known; "
          "ckptctl probe does so at any time."),
  };
}

}  // namespace

const std::vector<Key<Config>>& config_keys() {
  static const auto keys = make_config_keys();
  return keys;
}

const std::vector<Key<Preload>>& preload_keys() {
  static const std::vector<Key<Preload>> keys{
      required(key("checkpoint", "", &Preload::checkpoint, version_id(), "NAME@VERSION to load at the start.",
                   Change::reload)),
      required(key("source", "", &Preload::source, path_text(), "Directory of its files.", Change::reload)),
      key("keep", "", &Preload::keep, truth(), "Whether it is kept: never evicted to make room.", Change::reload),
  };
  return keys;
}

const std::vector<Key<Engine>>& engine_keys() {
  static const std::vector<Key<Engine>> keys{
      required(key("name", "", &Engine::name, name(), "Name for ckptctl, 1 to 64 characters of A-Z a-z 0-9 . _ -.",
                   Change::reload)),
      required(key("kind", "", &Engine::kind,
                   choice<std::string>({{"sglang", "sglang"}, {"vllm", "vllm"}, {"lmdeploy", "lmdeploy"}}), "What it is: sglang, vllm or lmdeploy.", Change::reload)),
      required(key("endpoint", "", &Engine::endpoint, endpoint(),
                   "Where its HTTP API listens: http://HOST:PORT or unix:/PATH.", Change::reload)),
      required(key("checkpoint", "", &Engine::checkpoint, checkpoint_name(),
                   "NAME of the checkpoint whose versions it takes.", Change::reload)),
      key("devices", "", &Engine::devices, list(text(false)), "Devices of its ranks, such as HOST-0; empty: all.",
          Change::reload),
      key("api_key_file", "", &Engine::api_key_file, key_path(),
          "File that holds its API key, readable for ckptd and not for everybody; read at each call. Empty: no key.",
          Change::reload),
      key("admin_key_file", "", &Engine::admin_key_file, key_path(),
          "File that holds the key of its administrative routes (SGLang's --admin-api-key). Empty: the API key serves.",
          Change::reload),
      key("transfer", "", &Engine::transfer,
          choice<std::string>({{"auto", "auto"}, {"checkpoint-engine", "checkpoint-engine"}, {"native", "native"}}),
          "How a vLLM is given weights: native (its own weight transfer, from 0.22 on), checkpoint-engine (its worker "
          "extension), or auto: native where the server offers it.",
          Change::reload),
      key("target", "", &Engine::target, optional_version_id(),
          "NAME@VERSION that it should serve as long as nobody has said anything else; afterwards only updates, rollbacks "
          "and ckptctl engine set move its target; empty: none until the first update.",
          Change::reload),
      key("follow", "", &Engine::follow, truth(),
          "Whether the daemon brings it to its target by itself when it appears, comes back or is poisoned. false: for "
          "those who hold the trigger themselves, it is only watched.",
          Change::reload),
      key("pause", "", &Engine::pause,
          choice<std::string>({{"auto", "auto"}, {"none", "none"}, {"abort", "abort"}, {"retract", "retract"},
                               {"in_place", "in_place"}, {"keep", "keep"}, {"wait", "wait"}}),
          "What becomes of its requests while it is updated: none (they may be answered by a mixture), abort, retract or "
          "in_place (SGLang), abort, keep or wait (vLLM); auto: retract of SGLang, wait of vLLM, abort of LMDeploy, where the server can.",
          Change::reload),
      key("flush_cache", "", &Engine::flush_cache, truth(),
          "Whether its cache of prefixes is flushed after an update.", Change::reload),
      key("on_failure", "", &Engine::on_failure,
          choice<std::string>({{"repush", "repush"}, {"hold", "hold"}}),
          "What becomes of it when an update fails and leaves a mixture: repush (it is given its last good version again, "
          "once) or hold (it is left as it is, paused if ckptd has paused it).",
          Change::reload),
      key("wake", "", &Engine::wake,
          choice<Wake>({{"none", Wake::none}, {"weights", Wake::weights}, {"all", Wake::all}}),
          "What an update wakes of a server that sleeps: none (the update is refused), weights (what they need; the rest is "
          "left to whoever put it to sleep) or all. None for SGLang, which does not tell that it sleeps.",
          Change::reload),
  };
  return keys;
}

}  // namespace ckptd::config
