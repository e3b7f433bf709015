// Knows each version and its one state: loading, resident, failed or evicted; its leases and its last use.
//
// State is ownership: only a resident entry contains memory, and versions with equal tensors may hold segments together
// (fold.h). A running job holds a counted Lease; the bytes stay until the last lease ends, and evicting a leased version
// answers busy and names the jobs. An identity outlives eviction: the bytes of a version never change, so a later load of
// other bytes under the same id is refused.
// All functions are safe from any thread and never block; the order of calls is the business of operations/.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/listeners.h"
#include "common/result.h"
#include "daemon/store/store.h"
#include "daemon/weights/checkpoint_id.h"
#include "daemon/weights/layout.h"
#include "daemon/weights/manifest.h"

namespace ckptd::catalogue {

/// A segment in which a version has bytes, maybe beside others.
struct Held {
  store::SharedSegment segment;
  std::uint64_t filled_bytes = 0;  ///< that its first holder had in it
};

/// Segments that were just filled along `layout`, which is not folded.
std::vector<Held> hold(store::Reservation memory, const weights::Layout& layout);

/// What a load produced. Immutable once resident.
struct Contents {
  weights::Manifest manifest;
  weights::Layout layout;
  std::vector<weights::Digest> tensor_digests;  ///< in the manifest's order
  weights::Digest schema;
  weights::Digest identity;
  weights::Digest source_stamp;
  std::string source_uri;
  std::vector<Held> memory;  ///< the layout's segments

  /// The bytes of the resting space from `offset` that lie together, at most `limit`.
  std::span<const std::byte> resting(std::uint64_t offset, std::uint64_t limit) const;
};

/// A counted claim of a job on a resident version. Move only; ends when destroyed.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&&) noexcept = default;
  Lease& operator=(Lease&&) noexcept = default;
  ~Lease() = default;

  const Contents& operator*() const { return *contents_; }
  const Contents* operator->() const { return contents_.get(); }
  explicit operator bool() const { return contents_ != nullptr; }

 private:
  friend class Catalogue;
  std::shared_ptr<const Contents> contents_;
  std::shared_ptr<void> claim_;  ///< its deleter removes the holder from the entry
};

struct SegmentUse {
  std::uint32_t number = 0;
  std::uint64_t bytes = 0;
  unsigned holders = 1;  ///< versions, and loads that are about to be
};

enum class State { loading, resident, failed, evicted };
std::string_view name_of(State state);

/// A copy of what is known about one version, for list, show and status.
struct View {
  weights::CheckpointId id;
  State state = State::failed;
  std::string source_uri;
  std::string job;                            ///< loading: who loads it
  std::optional<Error> error;                 ///< failed: why
  bool kept = false;
  std::vector<std::string> leased_by;         ///< jobs
  std::uint64_t tensor_count = 0, tensor_bytes = 0, store_bytes = 0;
  std::uint64_t shared_bytes = 0;              ///< of store_bytes: segments that another version holds as well
  std::uint64_t alone_bytes = 0;               ///< what it would hold if it shared nothing
  std::vector<SegmentUse> segments;            ///< resident: what it holds
  std::uint64_t use = 0;                       ///< number of its last use; counts up over all versions
  std::chrono::system_clock::time_point last_use;
  std::string identity, schema, source_stamp;  ///< hexadecimal, empty while unknown
  std::chrono::system_clock::time_point since;  ///< of this state
};

class Catalogue {
 public:
  Catalogue();
  ~Catalogue();

  /// Marks `id` as loading by `job`. From failed or evicted this starts again. conflict when it is resident or loading
  /// (the fact "job" names who loads it).
  Result<> begin_load(const weights::CheckpointId& id, std::string source_uri, std::string job, bool keep);

  /// Loading becomes resident. conflict, with both identities, when `id` had other bytes before; then it becomes failed
  /// and the memory is given back.
  Result<> finish_load(const weights::CheckpointId& id, Contents contents);
  void fail_load(const weights::CheckpointId& id, Error error);

  /// Claims on all versions that are resident now, for a job that compares its own with them.
  std::vector<Lease> lease_all(const std::string& job);

  /// A claim for `job`. not_found, or unavailable while loading, or the load's own error when it failed.
  Result<Lease> lease(const weights::CheckpointId& id, std::string job);

  /// Resident becomes evicted: its identity stays. busy, naming the jobs, when leased; busy when kept (says `unkeep`);
  /// a failed or evicted entry is simply forgotten with `forget`, which also drops the identity.
  Result<> evict(const weights::CheckpointId& id, bool forget);
  Result<> set_kept(const weights::CheckpointId& id, bool kept);

  /// Notes that `id` was used just now, as a load that ends does. Whoever only looks is no use.
  void touch(const weights::CheckpointId& id);

  /// Evicts all of these or none: busy when one of them is not resident, is leased or kept, or was used since it was
  /// seen.
  struct Seen {
    weights::CheckpointId id;
    std::uint64_t use = 0;
  };
  Result<> evict_unused(std::span<const Seen> versions);

  /// Told, without any lock held, after a state or `kept` may have changed.
  [[nodiscard]] Subscription on_change(std::function<void()> listener);

  std::optional<View> view(const weights::CheckpointId& id) const;
  std::vector<View> list() const;  ///< in the order of ids
  /// The manifest of a version with this schema that is or was resident; null when none is known.
  std::shared_ptr<const weights::Manifest> manifest_with_schema(const weights::Digest& schema) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace ckptd::catalogue
