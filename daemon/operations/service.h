// The use cases and what they act on. Internal to the room; operations.h is the way in.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/fleet/decide.h"
#include "daemon/fleet/known_trouble.h"
#include "daemon/fleet/policy.h"
#include "daemon/operations/checksums.h"
#include "daemon/operations/eviction.h"
#include "daemon/operations/external.h"
#include "daemon/operations/handover.h"
#include "daemon/operations/make.h"
#include "daemon/operations/watch.h"
#include "daemon/pipeline/arena.h"
#include "daemon/records/accounts.h"
#include "daemon/records/archive.h"

namespace ckptd::operations {

/// One update of one engine, decided but not begun.
struct EnginePush {
  std::string engine;
  journal::EngineRecord known;  ///< the engine, as it was recorded when this was decided
  std::vector<device::Device*> devices;
  std::string weight_version;     ///< VERSION, as the engine labels it
  journal::VersionRecord record;  ///< what it will serve
  fleet::Model model;             ///< what is known of that
  std::string serving;            ///< what it serves now, NAME@VERSION or empty
  std::vector<std::string> warnings;
  std::uint64_t bucket_bytes = 0;
  fleet::Policy policy;           ///< how it is treated meanwhile
  bool served = false;            ///< requests were answered by it when this was decided
  bool by_itself = false;         ///< nobody asked for it: the daemon brings the engine to its target, or gives it its last
                                  ///< good version again, neither of which moves a target
  // As far as its server tells.
  unsigned pipeline_parallel = 1;  ///< stages of its ranks
  unsigned draft_models = 0;       ///< for each of which a rank opens another session
  std::shared_ptr<External> external;  ///< somebody else calls the engine; null: we do
  fleet::Wake wake = fleet::Wake::none;
  std::shared_ptr<const Options> options;  ///< those of its beginning, whatever is reloaded meanwhile
  Clock::time_point requested;
};

/// Of a server that was given a version.
struct Given {
  fleet::Mark mark;                         ///< by what it is recognised from now on
  std::optional<fleet::Observation> after;  ///< absent: it did not answer
};

class UpdateJob;
class Standstill;
struct SpotCheck;

class Service final : public Operations {
 public:
  Service(Parts parts, Options options);
  ~Service() override;

  void recover();
  /// As much as is configured, on each device. One that has not got it is none the worse: its updates take what there is.
  void reserve_arenas();
  void start_preloads();
  void start_probe();

  Result<api::Job> load(const api::LoadRequest& request) override;
  Result<api::Job> update(const api::UpdateRequest& request) override;
  Result<api::UpdatePreview> preview_update(const api::UpdateRequest& request) override;

  std::vector<api::Version> versions() const override;
  Result<api::Version> version(const std::string& name, const std::string& version, bool tensors) const override;
  Result<> evict(const std::string& name, const std::string& version, bool forget) override;
  Result<api::Version> set_kept(const std::string& name, const std::string& version, bool kept) override;
  api::Trimmed trim() override;

  std::vector<api::Job> jobs() const override;
  Result<api::Job> job(const std::string& id) const override;
  Result<api::Trace> trace(const std::string& id) const override;
  Result<api::Job> cancel_job(const std::string& id, bool force) override;
  Result<api::Job> wait_job(const std::string& id, Deadline deadline) const override;

  Result<api::Job> probe() override;

  std::vector<api::Engine> engines() const override;
  Result<api::Engine> engine(const std::string& name) const override;
  Result<api::Engine> put_engine(const api::EngineRequest& request) override;
  Result<> remove_engine(const std::string& name) override;
  Result<api::Job> verify(const std::string& engine) override;
  Result<api::Engine> change_engine(const std::string& name, const api::EngineChange& change) override;
  Result<api::Job> roll_back(const api::RollbackRequest& request) override;
  Result<api::Engine> set_drained(const std::string& name, bool drained) override;
  Result<api::Status> set_node_drained(bool drained) override;
  void stop_watching() override;
  void start_watching() override;

  api::Status status() const override;
  Result<api::Reload> reload() override;
  Subscription subscribe(std::function<void(const api::Event&)> listener) override;

 private:
  /// The options of now: a job asks once and keeps what it got.
  std::shared_ptr<const Options> options() const;

  // loads.cpp
  /// What is wanted of a load by all who asked for it: whoever joins one that runs may want more than who began it.
  struct Wanted {
    std::atomic<bool> keep = false, resource = false;  ///< `resource`: the policy; availability is the lack of it
    void add(const api::LoadRequest& request);
  };
  /// `accepted` is called once the memory is reserved: from then on only the reading can fail.
  Result<jobs::Record> start_load(const api::LoadRequest& request, std::function<void()> accepted);
  void join_load(const std::string& key, const api::LoadRequest& request, const weights::CheckpointId& id);
  Result<std::string> run_load(const std::string& source_uri, const Wanted& wanted, const weights::CheckpointId& id,
                               jobs::Handle& job, const std::function<void()>& accepted, records::LoadAccount& account);
  Result<std::string> answer_resident(const catalogue::View& there, const source::Source& source, bool keep,
                                      jobs::Handle& job, records::LoadAccount& account);

  // room.cpp: memory for a load, and what had to leave for it
  struct Evicted {
    weights::CheckpointId id;
    std::string source_uri;
  };
  store::MakeRoom make_room(const Wanted& wanted, const weights::CheckpointId& id, const std::string& job,
                            std::vector<Evicted>& evicted);
  std::vector<Holder> holders() const;
  /// Lets the version share what others have as well, if that makes a segment free.
  Result<> fold(catalogue::Contents& contents, jobs::Handle& job);
  std::vector<std::string> handover_notes() const;

  // updates.cpp
  struct Admitted {
    std::vector<EnginePush> pushes;
    std::optional<std::uint64_t> max_unavailable;
    std::vector<journal::EngineRecord> left_out;  ///< those of NAME whose turn comes later: their target moves all the same
    catalogue::Lease lease;
  };
  struct Chosen {
    std::vector<journal::EngineRecord> engines;
    std::vector<journal::EngineRecord> left_out;
  };
  class Released;
  /// Why an update begins, when nobody asked for it by hand.
  struct Occasion {
    std::string why = {};  ///< for its subject; empty: somebody asked for it
    bool by_itself = false;
    std::string key = {};  ///< by which a repeated request is known; empty: by what is asked for
    /// Which of an engine's versions is given again, in the way in which it was: with its label, and forced if it was.
    std::optional<journal::VersionRecord> journal::EngineRecord::*again = nullptr;
  };
  Result<api::Job> start_update(const api::UpdateRequest& request, const Occasion& occasion);
  /// Whether what the daemon does by itself with these engines is what is asked for here, and they are still to end there.
  bool is_wanted_already(const api::UpdateRequest& request, const weights::CheckpointId& id) const;
  /// Waits a moment for the handles, or for the job to fail before there are any.
  Result<api::Job> answer_with_handles(const api::Job& started);
  api::Job with_handles(api::Job job) const;
  Result<Admitted> admit(const api::UpdateRequest& request, const weights::CheckpointId& id, const Occasion& occasion);
  Result<Chosen> chosen_engines(const api::UpdateRequest& request) const;
  /// Out of service, or the daemon is healing it: it serves nobody, is not waited for, and follows.
  bool comes_later(const journal::EngineRecord& engine, bool node_drained) const;
  /// After a success, unless somebody has said otherwise meanwhile. By themselves they follow when they can.
  void move_left_out(const Admitted& admitted);
  Result<std::string> run_update(Admitted& admitted, const weights::CheckpointId& id, jobs::Handle& job,
                                 std::vector<records::PushAccount>& accounts);
  Result<> claim_engines(const std::vector<EnginePush>& pushes);
  void name_claims(const std::vector<EnginePush>& pushes, const std::string& job);
  void release_engines(const std::vector<EnginePush>& pushes);

  // orchestration.cpp: one engine's update, with what is around its push
  struct LastGood {
    weights::CheckpointId id = {};
    journal::VersionRecord record = {};
    std::optional<catalogue::Lease> lease = {};  ///< absent: there is none, or the store has not its bytes
  };
  LastGood last_good_of(const std::string& engine, const std::string& job) const;
  Result<nlohmann::json> update_engine(EnginePush& push, const catalogue::Contents& contents, UpdateJob& job,
                                       records::PushAccount& account, std::optional<records::PushAccount>& second);
  std::vector<std::string> pause_notes() const;
  bool serves_now(const journal::EngineRecord& engine) const;
  void resume_engine(const std::string& engine);
  Result<> try_resume(const std::string& engine);
  void write_held(const std::string& engine);

  // engine_push.cpp: one push to one engine, from the arena to the verdict
  Result<nlohmann::json> push_to_engine(const EnginePush& push, const catalogue::Contents& contents, fleet::Engine& engine,
                                        Standstill& standstill, UpdateJob& job, records::PushAccount& account);
  plan::Packing packing(const EnginePush& push) const;
  std::uint64_t wanted_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const;
  Result<std::uint64_t> affordable_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const;
  /// The engine's own way of being given weights, or null: then its ranks come to our endpoints.
  Result<std::unique_ptr<ranks::Transfer>> native_transfer(const EnginePush& push, fleet::Engine& engine) const;
  Result<plan::Plan> plan_push(const EnginePush& push, const catalogue::Contents& contents, std::uint64_t arena_bytes,
                               const ranks::Opener& opener) const;
  Result<std::vector<pipeline::ArenaLoan>> borrow_arenas(const EnginePush& push, const weights::Manifest& manifest);
  Result<std::vector<pipeline::Lane>> open_lanes(const EnginePush& push, plan::FanOut fan_out,
                                                 const std::vector<pipeline::ArenaLoan>& arenas, ranks::Opener& opener,
                                                 std::stop_token stop);
  plan::FanOut fan_out(const EnginePush& push) const;

  // outcomes.cpp: what is written down before, during and after a push
  Result<> write_open_update(const EnginePush& push, const fleet::UpdateCall& call, const std::string& job,
                             const std::optional<fleet::Observation>& seen, const std::optional<ProcessId>& listener);
  bool was_touched(const EnginePush& push, const std::string& job) const;
  Result<> write_touched(const EnginePush& push, const std::string& job);
  Result<> write_success(const EnginePush& push, const std::string& job, const Given& given);
  void write_failure(const EnginePush& push, const std::string& job, const Error& error, bool touched);

  // accounts.cpp: what is kept of a job that has ended
  void keep_record(const records::JobAccount& job, const records::LoadAccount& load);
  void keep_record(const records::JobAccount& job, const std::vector<records::PushAccount>& pushes);
  records::Peaks peaks() const;
  api::Job with_record(api::Job job) const;

  // probe.cpp
  Result<std::vector<journal::PeakRecord>> measure(std::uint64_t bytes, std::chrono::milliseconds working,
                                                   std::stop_token stop);
  Result<std::string> run_probe(jobs::Handle& job);
  Result<> check_nothing_moves() const;
  bool knows_all_peaks() const;
  std::vector<device::Device*> working_devices() const;
  void probe_once_idle(std::stop_token stop);

  // verify.cpp: what engines hold, as they tell it themselves
  /// Right after an update, once requests go on; what a report says of it.
  nlohmann::json take_checksums(const EnginePush& push, const journal::VersionRecord& version,
                                const catalogue::Contents& contents, fleet::Engine& engine, UpdateJob& job);
  /// Whether those that were given the same in one job tell the same of it; the sentences are for reports by engine.
  nlohmann::json compare_updated(const std::string& job, std::map<std::string, std::string>& disagreements) const;
  Result<std::string> run_verify(const std::string& engine, jobs::Handle& job);
  /// `spots` is set, and the checksums are of those alone, where the server tells no others.
  Result<TakenChecksums> ask_checksums(const journal::EngineRecord& record, const std::string& job,
                                       std::optional<SpotCheck>& spots);
  /// Poisons it, unless an update began meanwhile.
  bool write_changed(const std::string& engine, std::uint64_t touched, const std::string& why);
  std::uint64_t touched_count(const std::string& engine) const;
  Result<> check_untouched(const std::string& engine, std::uint64_t touched) const;
  std::string software_of(const std::string& engine) const;

  // engines.cpp
  Result<std::vector<device::Device*>> devices_named(const std::vector<std::string>& uuids) const;
  Result<> check_engine(const api::EngineRequest& request) const;
  Result<> check_not_updating(const std::string& engine) const;
  Result<> check_unclaimed(const std::string& engine) const;  ///< under mutex_
  Result<journal::EngineRecord> known_engine(const std::string& engine) const;

  // lifecycle.cpp: looks at engines, decides, and acts
  /// What is known of an engine beside its record; gone with the daemon.
  struct Sighting {
    std::optional<fleet::Look> look = {};
    std::optional<fleet::Description> about = {};
    bool described = false;       ///< of the server that was seen last, as far as it can be
    std::optional<ProcessId> described_listener = {};
    unsigned unreachable = 0;     ///< looks in a row without an answer
    std::uint64_t touched = 0;    ///< counts updates and registrations: a look that began before the last is void
    unsigned failures = 0;        ///< updates in a row that failed
    Clock::time_point retry{};
    std::chrono::system_clock::time_point retry_at{};
    std::string last_error = {};
    std::uint64_t restarts = 0, own_updates = 0, own_failures = 0;
    std::string shown_state = {}, told = {};  ///< what was shown, and what the log was told last
    std::chrono::system_clock::time_point since{};
    bool was_awake = false;       ///< since it was given its weights, or they were lost

  };
  /// Whose turn it is, of engines of one NAME that serve and are to be given another version by themselves: one at a time is
  /// out of service. Empty: the engine's own. The caller holds mutex_.
  std::string turn_of(const journal::EngineRecord& engine) const;
  /// What follows from the facts, when it is its turn. The caller holds mutex_.
  fleet::Decision decide_in_turn(fleet::Facts facts, const journal::EngineRecord& engine) const;
  fleet::Facts facts_of(journal::EngineRecord record, bool node_drained, const Sighting& sighting,
                        bool updating) const;
  fleet::Residency residency_of(const std::string& version) const;
  /// One look and what follows from it; how long until the next.
  std::chrono::milliseconds look_after(const std::string& engine);
  /// False when the look counts no more, because of what happened meanwhile.
  bool take_in(const std::string& engine, std::uint64_t touched, Result<fleet::Observation> seen);
  void describe_once(const std::string& engine, fleet::Engine& server);
  void write_loss(const std::string& engine, std::uint64_t touched);
  std::chrono::milliseconds act(const std::string& engine);
  /// The first look at what it was given, when there was one.
  void note_given(const std::string& engine, const std::optional<fleet::Observation>& seen);
  void note_outcome(const EnginePush& push, const std::optional<Error>& error);
  void note_refusal(const std::string& engine, const Error& error);
  void hold_back(Sighting& sighting, const std::string& why, const Options& now);
  void forget_sighting(const std::string& engine);
  void watch_engine(const std::string& engine);
  void nudge(const std::string& engine);
  /// Those that may be given their target now.
  void nudge_waiting();
  api::Engine show_engine(const journal::EngineRecord& record, bool node_drained) const;

  // trouble.cpp: what is known to go wrong
  /// The caller holds mutex_, of this and the next.
  fleet::Model model_of(const journal::VersionRecord& version) const;
  const fleet::KnownTrouble* trouble_with_target(const journal::EngineRecord& engine, const Sighting& sighting) const;
  fleet::Way way_of(const journal::EngineRecord& engine, const fleet::Description& about, bool external) const;
  /// As fleet::unsuitable().
  std::optional<Error> unsuitable(const journal::EngineRecord& engine, const fleet::Description& about) const;
  /// What it told when it was last looked at. Does not ask it.
  std::optional<fleet::Description> last_description(const std::string& name) const;
  std::optional<fleet::Description> description_for_others(const EnginePush& push, fleet::Engine& engine) const;
  /// conflict when the update is known to go wrong and was not forced; else what is to be said of it.
  Result<std::vector<std::string>> heed_trouble(const EnginePush& push, const fleet::Description& about) const;
  /// The same, asked of a server that is not the one of the last look.
  Result<> heed_new_server(const EnginePush& push, fleet::Engine& engine, const fleet::Observation& seen,
                           records::PushAccount& account) const;

  // orders.cpp: what an operator says of engines
  Result<> check_target(const std::string& target, const std::string& checkpoint) const;
  /// That none of its devices is lost.
  Result<> check_not_lost(const EnginePush& push) const;

  // reload.cpp
  Result<api::Reload> apply_reread();

  void start_preload(const Preload& preload);
  // announcements.cpp
  /// Tells how engines and versions differ from what was told last.
  void announce();
  void announce_engines();
  void announce_versions();

  std::vector<std::string> missing_preloads() const;
  std::optional<Error> last_load_error(const weights::CheckpointId& id) const;

  Parts parts_;
  std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();

  mutable std::mutex mutex_;
  struct Claim {
    std::string job = {};  ///< empty for a moment, see check_unclaimed()
    bool by_itself = false;
    std::string checkpoint = {};  ///< NAME
    bool served = false;          ///< requests were answered by it
  };
  std::map<std::string, Claim> updating_;  ///< by engine
  std::map<std::string, std::shared_ptr<External>> external_;  ///< by job, while it runs; under mutex_
  std::shared_ptr<const Options> options_;       ///< under mutex_; what it points to never changes
  std::optional<api::Reload> last_reload_;       ///< under mutex_
  std::mutex reloading_;                         ///< one reload at a time
  mutable std::vector<Handover> handovers_;      ///< guarded by mutex_; those that are over are dropped when looked at
  /// Held while a load looks into the other versions, and while it is decided who leaves: the leases of the former, of
  /// some milliseconds, shall not keep anybody here.
  std::mutex comparing_;
  mutable std::map<std::string, Sighting> sightings_;  ///< by engine; under mutex_
  mutable std::map<std::string, fleet::Model> models_;  ///< by schema, of targets; under mutex_
  std::mutex starting_;                          ///< makes "is there such a job?" and "start it" one step
  std::map<std::string, std::weak_ptr<Wanted>> wanted_;  ///< by key of a load, while it runs; under starting_
  pipeline::Arenas arenas_;                      ///< has a lock of its own
  records::Archive archive_;
  ChecksumShelf checksums_;                      ///< has a lock of its own
  std::mutex measuring_;                         ///< two measurements would disturb each other

  std::mutex announcing_;  ///< guards what was told last, and keeps the telling in order
  std::map<std::string, api::Engine> told_engines_;
  std::map<std::pair<std::string, std::string>, api::Version> told_versions_;
  Listeners<const api::Event&> listeners_;
  Subscription catalogue_changes_, journal_changes_;  ///< near the end, so that they end early
  std::jthread prober_;                          ///< it uses all of the above
  std::mutex watching_;                          ///< guards what follows; held for moments only
  bool watching_ended_ = false;
  std::vector<std::unique_ptr<Watch>> ended_watches_;      ///< of removed engines, until their last look is over
  std::map<std::string, std::unique_ptr<Watch>> watches_;  ///< last: they use all of the above
};

}  // namespace ckptd::operations
