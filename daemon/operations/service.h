// The use cases and what they act on. Internal to the room; operations.h is the way in.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/operations/make.h"

namespace ckptd::operations {

/// One update of one engine, decided but not begun.
struct EnginePush {
  std::string engine, kind, endpoint;
  std::vector<device::Device*> devices;
  std::string weight_version;     ///< VERSION, as the engine labels it
  journal::VersionRecord record;  ///< what it will serve
  std::string serving;            ///< what it serves now, NAME@VERSION or empty
  std::vector<std::string> warnings;
  std::uint64_t bucket_bytes = 0;
  bool flush_cache = true;
};

class UpdateJob;

class Service final : public Operations {
 public:
  Service(Parts parts, Options options);
  ~Service() override;

  void recover();
  void start_preloads();

  Result<api::Job> load(const api::LoadRequest& request) override;
  Result<api::Job> update(const api::UpdateRequest& request) override;
  Result<api::UpdatePreview> preview_update(const api::UpdateRequest& request) override;

  std::vector<api::Version> versions() const override;
  Result<api::Version> version(const std::string& name, const std::string& version, bool tensors) const override;
  Result<> evict(const std::string& name, const std::string& version, bool forget) override;
  Result<api::Version> set_kept(const std::string& name, const std::string& version, bool kept) override;
  std::uint64_t trim() override;

  std::vector<api::Job> jobs() const override;
  Result<api::Job> job(const std::string& id) const override;
  Result<api::Job> cancel_job(const std::string& id, bool force) override;
  Result<api::Job> wait_job(const std::string& id, Deadline deadline) const override;

  std::vector<api::Engine> engines() const override;
  Result<api::Engine> engine(const std::string& name) const override;
  Result<api::Engine> put_engine(const api::EngineRequest& request) override;
  Result<> remove_engine(const std::string& name) override;

  api::Status status() const override;
  Subscription subscribe(std::function<void(const api::Event&)> listener) override;

 private:
  // loads.cpp
  /// `accepted` is called once the memory is reserved: from then on only the reading can fail.
  Result<jobs::Record> start_load(const api::LoadRequest& request, std::function<void()> accepted);
  Result<std::string> run_load(const api::LoadRequest& request, const weights::CheckpointId& id, jobs::Handle& job,
                               const std::function<void()>& accepted);
  Result<std::string> answer_resident(const catalogue::View& there, const source::Source& source, bool keep,
                                      jobs::Handle& job);

  // updates.cpp
  struct Admitted {
    std::vector<EnginePush> pushes;
    catalogue::Lease lease;
  };
  Result<Admitted> admit(const api::UpdateRequest& request, const weights::CheckpointId& id);
  Result<std::vector<journal::EngineRecord>> chosen_engines(const api::UpdateRequest& request) const;
  Result<std::string> run_update(Admitted& admitted, const weights::CheckpointId& id, jobs::Handle& job);
  Result<> claim_engines(const std::vector<EnginePush>& pushes);
  void name_claims(const std::vector<EnginePush>& pushes, const std::string& job);
  void release_engines(const std::vector<EnginePush>& pushes);

  // engine_push.cpp: one engine's update, from the arena to the verdict
  Result<nlohmann::json> push_to_engine(const EnginePush& push, const catalogue::Contents& contents, UpdateJob& job);
  plan::Packing packing(const EnginePush& push) const;
  std::uint64_t wanted_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const;
  Result<std::uint64_t> affordable_arena_bytes(const EnginePush& push, const weights::Manifest& manifest) const;
  Result<plan::Plan> plan_push(const EnginePush& push, const catalogue::Contents& contents,
                               std::uint64_t arena_bytes) const;
  Result<std::vector<pipeline::Lane>> allocate_lanes(const EnginePush& push, const weights::Manifest& manifest);
  Result<> open_sessions(const EnginePush& push, plan::FanOut fan_out, std::vector<pipeline::Lane>& lanes);
  plan::FanOut fan_out(std::size_t members) const;

  // outcomes.cpp: what is written down before, during and after a push
  Result<> write_open_update(const EnginePush& push, const std::vector<pipeline::Lane>& lanes, const std::string& job);
  Result<> write_touched(const EnginePush& push, const std::string& job);
  Result<> write_success(const EnginePush& push, const std::string& job);
  void write_failure(const EnginePush& push, const std::string& job, const Error& error, bool touched);

  // engines.cpp
  Result<std::vector<device::Device*>> devices_named(const std::vector<std::string>& uuids) const;
  Result<> check_not_updating(const std::string& engine) const;
  api::Engine show_engine(const journal::EngineRecord& record) const;

  // announcements.cpp
  /// Tells how engines and versions differ from what was told last.
  void announce();
  void announce_engines();
  void announce_versions();

  std::vector<std::string> missing_preloads() const;
  std::optional<Error> last_load_error(const weights::CheckpointId& id) const;

  Parts parts_;
  Options options_;
  std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();

  mutable std::mutex mutex_;
  std::map<std::string, std::string> updating_;  ///< engine -> job
  std::mutex starting_;                          ///< makes "is there such a job?" and "start it" one step

  std::mutex announcing_;  ///< guards what was told last, and keeps the telling in order
  std::map<std::string, api::Engine> told_engines_;
  std::map<std::pair<std::string, std::string>, api::Version> told_versions_;
  Listeners<const api::Event&> listeners_;
  Subscription catalogue_changes_, journal_changes_;  ///< last, so that they end first
};

}  // namespace ckptd::operations
