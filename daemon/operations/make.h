// Puts the use cases together from the rooms they act on. assembly.cpp is the only caller.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/catalogue/catalogue.h"
#include "daemon/collective/group.h"
#include "daemon/device/device.h"
#include "daemon/fleet/engine.h"
#include "daemon/jobs/jobs.h"
#include "daemon/journal/journal.h"
#include "daemon/journal/peaks.h"
#include "daemon/operations/operations.h"
#include "daemon/pipeline/push.h"
#include "daemon/plan/plan.h"
#include "daemon/prefetch/prefetch.h"
#include "daemon/ranks/endpoints.h"
#include "daemon/ranks/transfer.h"
#include "daemon/source/source.h"
#include "daemon/store/store.h"

namespace ckptd::operations {

struct Reread;

/// What the use cases act on. Everything outlives the operations.
struct Parts {
  catalogue::Catalogue& catalogue;
  store::Store& store;
  jobs::Registry& jobs;
  journal::Journal& journal;
  ranks::Endpoints& endpoints;
  std::vector<device::Device*> devices;
  /// May take long, which the stop request ends.
  std::function<Result<std::vector<std::unique_ptr<collective::Member>>>(
      const std::vector<device::Device*>&, const std::vector<std::string>&, std::stop_token)>
      make_group;
  /// invalid_argument for a kind or an endpoint that is none.
  std::function<Result<std::unique_ptr<fleet::Engine>>(const journal::EngineRecord&)> make_engine;
  journal::Peaks& peaks;
  /// Reads the configuration again, for reload(). Called from one thread at a time.
  std::function<Result<Reread>()> reread = {};
  /// Lets go of what make_group() keeps for the next group; how many sets that were.
  std::function<std::size_t()> drop_idle_groups = {};
  /// For an update of an engine by the server's own way of being given weights, "ipc" or "nccl". unsupported or unavailable
  /// for a kind that has none, and for a way that this daemon cannot go.
  std::function<Result<std::unique_ptr<ranks::Transfer>>(const journal::EngineRecord&, const std::string& weight_version,
                                                         const std::string& way)>
      make_transfer = {};
};

struct Preload {
  std::string checkpoint;  ///< NAME@VERSION
  std::string source;
  bool keep = true;
  bool operator==(const Preload&) const = default;
};

struct Options {
  source::Options source;
  prefetch::Options prefetch;
  pipeline::Deadlines deadlines;
  std::chrono::milliseconds engine_timeout{1'800'000};  ///< the engine's whole answer to one update
  std::chrono::milliseconds ping_timeout{5'000};
  std::chrono::milliseconds engine_step{60'000};  ///< one short call around an update: pause, resume, flush
  std::chrono::milliseconds engine_poll{2'000};           ///< between two looks at an engine,
  std::chrono::milliseconds engine_poll_slowest{15'000};  ///< growing up to this while it cannot be reached
  std::chrono::milliseconds engine_retry{10'000};         ///< after an update of its own that failed,
  std::chrono::milliseconds engine_retry_slowest{600'000};  ///< growing up to this
  std::chrono::milliseconds answer_grace{10'000};  ///< after the ranks' verdict the engine's answer, and the reverse
  std::chrono::milliseconds rank_grace{500};       ///< after the engine's no, for ranks to tell why
  std::chrono::milliseconds load_answer{2'000};    ///< how long load() waits for an early refusal
  std::uint64_t bucket_bytes = 0;                  ///< 0: plan::default_bucket_bytes
  std::uint64_t arena_bytes = 0;                   ///< 0: plan::wanted_arena_bytes
  bool keep_arena = true;                          ///< between updates, see pipeline::Arenas
  bool receipt_required = true;                    ///< else an arena whose receipt is missing is used as if it were there
  std::optional<plan::FanOut> fan_out;             ///< absent: plan::choose_fan_out
  bool peer_copies_are_faster = false;
  std::string lock;                                ///< for status
  std::vector<Preload> preloads;
  std::size_t job_history = 200;                      ///< records and traces of so many jobs are kept at most,
  std::uint64_t record_memory_bytes = 64 << 20;       ///< and in so much memory
  bool probe_at_start = false;                        ///< measure peaks that are not known, once nothing runs
};

/// What the configuration says now, as far as it may change while the daemon runs.
struct Reread {
  Options options;
  std::vector<api::EngineRequest> engines;          ///< new or changed: to be registered
  std::vector<std::string> applied, needs_restart;  ///< keys that changed, for people
  std::function<void()> adopt;                      ///< called once all of this is accepted; does the rest of it
};

/// Takes over what a dead predecessor left in the journal (frees its ranks, marks its engines), then starts the
/// preloads, then looks after the engines that are known.
std::unique_ptr<Operations> make_operations(Parts parts, Options options);

}  // namespace ckptd::operations
