#include "daemon/catalogue/catalogue.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <variant>

namespace ckptd::catalogue {
namespace {

using weights::CheckpointId;

// The states. Only Resident owns memory; a lease keeps an entry in Resident, so its Contents stay where they are.
struct Loading {
  std::string job;
};
struct Resident {
  std::unique_ptr<const Contents> contents;
  std::map<std::string, unsigned> leases;  ///< by job
};
struct Failed {
  Error error;
};
struct Evicted {};

/// What is known of a version's bytes since they were resident once.
struct Known {
  weights::Digest identity, schema, source_stamp;
  std::uint64_t tensor_bytes = 0;
  std::shared_ptr<const weights::Manifest> manifest;
};

struct Entry {
  std::variant<Loading, Resident, Failed, Evicted> state = Evicted{};
  std::string source_uri;
  bool kept = false;
  std::optional<Known> known;
  std::chrono::system_clock::time_point since;
  std::uint64_t use = 0;  ///< 0: never
  std::chrono::system_clock::time_point last_use;

  template <class NewState>
  void become(NewState next) {
    state = std::move(next);
    since = std::chrono::system_clock::now();
  }

  /// Resident becomes evicted; the memory is in what is returned.
  auto leave() {
    auto old = std::move(state);
    become(Evicted{});
    kept = false;
    return old;
  }
};

std::string show_jobs(const std::map<std::string, unsigned>& leases) {
  std::string text;
  for (const auto& [job, count] : leases) text += (text.empty() ? "" : ", ") + job;
  return text;
}

std::unexpected<Error> unknown(const CheckpointId& id) {
  return fail(ErrorKind::not_found, "{} is not known here; load it with `ckptctl load {} DIR`", id.show(), id.show());
}

Error other_bytes(const CheckpointId& id, const weights::Digest& resident, const weights::Digest& found) {
  return Error{ErrorKind::conflict,
               fmt::format("{} was loaded before with other bytes: its identity is {}, and the source has {} now. The "
                           "bytes of a version never change: load these under another version, or forget the old ones "
                           "with `ckptctl evict {} --forget`",
                           id.show(), resident.hex(), found.hex(), id.show())}
      .with_fact("resident_identity", resident.hex())
      .with_fact("found_identity", found.hex());
}

Result<> check_resident(const CheckpointId& id, const Entry& entry) {
  if (const auto* loading = std::get_if<Loading>(&entry.state))
    return std::unexpected(Error{ErrorKind::unavailable,
                                 fmt::format("{} is still being loaded by job {}; wait for the end of that", id.show(),
                                             loading->job)}
                               .with_fact("job", loading->job));
  if (const auto* failed = std::get_if<Failed>(&entry.state))
    return std::unexpected(failed->error.within(fmt::format("{} could not be loaded", id.show())));
  if (std::holds_alternative<Evicted>(entry.state))
    return fail(ErrorKind::not_found, "{} was evicted; load it again with `ckptctl load {} DIR` (it came from {})",
                id.show(), id.show(), entry.source_uri);
  return {};
}

/// busy while it is loading, leased or kept; conflict when it failed and is not to be forgotten.
Result<> check_evictable(const CheckpointId& id, const Entry& entry, bool forget) {
  if (const auto* loading = std::get_if<Loading>(&entry.state))
    return std::unexpected(Error{ErrorKind::busy, fmt::format("{} is being loaded by job {}; cancel that first",
                                                              id.show(), loading->job)}
                               .with_fact("job", loading->job));
  if (const auto* failed = std::get_if<Failed>(&entry.state); failed != nullptr && !forget)
    return fail(ErrorKind::conflict,
                "{} holds no memory, since its load failed ({}); load it again, or forget it with `ckptctl evict {} "
                "--forget`",
                id.show(), failed->error.sentence, id.show());
  const auto* resident = std::get_if<Resident>(&entry.state);
  if (resident == nullptr) return {};
  if (!resident->leases.empty())
    return std::unexpected(Error{ErrorKind::busy, fmt::format("{} is in use by job {}; wait for the end of that or "
                                                              "cancel it, then evict again",
                                                              id.show(), show_jobs(resident->leases))}
                               .with_fact("job", resident->leases.begin()->first));
  if (entry.kept)
    return fail(ErrorKind::busy, "{} is kept; release it first with `ckptctl unkeep {}`", id.show(), id.show());
  return {};
}

View view_of(const CheckpointId& id, const Entry& entry) {
  View view;
  view.id = id;
  view.source_uri = entry.source_uri;
  view.kept = entry.kept;
  view.since = entry.since;
  view.use = entry.use;
  view.last_use = entry.last_use;
  view.state = static_cast<State>(entry.state.index());
  if (const auto* loading = std::get_if<Loading>(&entry.state)) view.job = loading->job;
  if (const auto* failed = std::get_if<Failed>(&entry.state)) view.error = failed->error;
  if (const auto* resident = std::get_if<Resident>(&entry.state)) {
    const auto& layout = resident->contents->layout;
    view.alone_bytes = layout.segment_count() * layout.segment_bytes();
    for (const auto& held : resident->contents->memory) {
      const auto bytes = held.segment->memory.size();
      const auto holders = held.segment.use_count();
      view.segments.push_back({held.segment->number, bytes, static_cast<unsigned>(holders)});
      view.store_bytes += bytes;
      if (holders > 1) view.shared_bytes += bytes;
    }
    for (const auto& [job, count] : resident->leases) view.leased_by.push_back(job);
  }
  if (entry.known) {
    view.tensor_count = entry.known->manifest->tensors.size();
    view.tensor_bytes = entry.known->tensor_bytes;
    view.identity = entry.known->identity.hex();
    view.schema = entry.known->schema.hex();
    view.source_stamp = entry.known->source_stamp.hex();
  }
  return view;
}

// view_of() reads the state off the variant's index.
using AllStates = decltype(Entry::state);
static_assert(std::is_same_v<std::variant_alternative_t<std::size_t(State::loading), AllStates>, Loading>);
static_assert(std::is_same_v<std::variant_alternative_t<std::size_t(State::resident), AllStates>, Resident>);
static_assert(std::is_same_v<std::variant_alternative_t<std::size_t(State::failed), AllStates>, Failed>);
static_assert(std::is_same_v<std::variant_alternative_t<std::size_t(State::evicted), AllStates>, Evicted>);

}  // namespace

std::string_view name_of(State state) {
  switch (state) {
    case State::loading: return "loading";
    case State::resident: return "resident";
    case State::failed: return "failed";
    case State::evicted: return "evicted";
  }
  return "unknown";
}

std::vector<Held> hold(store::Reservation memory, const weights::Layout& layout) {
  std::vector<Held> held;
  auto left = layout.total_bytes();
  for (auto& segment : store::share(std::move(memory))) {
    const auto filled = std::min<std::uint64_t>(left, segment->memory.size());
    held.push_back({std::move(segment), filled});
    left -= filled;
  }
  return held;
}

std::span<const std::byte> Contents::resting(std::uint64_t offset, std::uint64_t limit) const {
  const auto place = layout.place(offset);
  if (place.bytes == 0) return {};
  return memory[place.segment].segment->memory.subspan(place.offset, std::min(limit, place.bytes));
}

// Memory is always given back outside the mutex: destroying a Reservation takes the store's lock, and a manifest of a
// hundred thousand tensors takes a while.
struct Catalogue::Impl {
  mutable std::mutex mutex;
  std::map<CheckpointId, Entry> entries;
  Listeners<> listeners;
  std::uint64_t uses = 0;

  void use(Entry& entry) {
    entry.use = ++uses;
    entry.last_use = std::chrono::system_clock::now();
  }

  Entry* find(const CheckpointId& id) {
    auto found = entries.find(id);
    return found == entries.end() ? nullptr : &found->second;
  }

  void end_lease(const CheckpointId& id, const std::string& job) {
    std::scoped_lock lock(mutex);
    auto& leases = std::get<Resident>(find(id)->state).leases;
    auto lease = leases.find(job);
    if (--lease->second == 0) leases.erase(lease);
  }
};

namespace {

/// Tells at the end of a function, behind the locks that come after it.
class TellAtEnd {
 public:
  explicit TellAtEnd(const Listeners<>& listeners) : listeners_(listeners) {}
  TellAtEnd(const TellAtEnd&) = delete;
  TellAtEnd& operator=(const TellAtEnd&) = delete;
  ~TellAtEnd() { listeners_.tell(); }

 private:
  const Listeners<>& listeners_;
};

}  // namespace

Catalogue::Catalogue() : impl_(std::make_shared<Impl>()) {}
Catalogue::~Catalogue() = default;

Result<> Catalogue::begin_load(const CheckpointId& id, std::string source_uri, std::string job, bool keep) {
  TellAtEnd tell(impl_->listeners);
  std::scoped_lock lock(impl_->mutex);
  auto& entry = impl_->entries[id];
  if (const auto* loading = std::get_if<Loading>(&entry.state))
    return std::unexpected(
        Error{ErrorKind::conflict, fmt::format("{} is being loaded by job {} already", id.show(), loading->job)}
            .with_fact("job", loading->job));
  if (std::holds_alternative<Resident>(entry.state))
    return fail(ErrorKind::conflict, "{} is resident already, loaded from {}; to load it again, evict it first",
                id.show(), entry.source_uri);
  entry.become(Loading{std::move(job)});
  entry.source_uri = std::move(source_uri);
  entry.kept = keep;
  return {};
}

Result<> Catalogue::finish_load(const CheckpointId& id, Contents contents) {
  Known known{contents.identity, contents.schema, contents.source_stamp, contents.manifest.tensor_bytes(),
              std::make_shared<const weights::Manifest>(contents.manifest)};
  auto owned = std::make_unique<const Contents>(std::move(contents));  // before the lock: given back after it

  TellAtEnd tell(impl_->listeners);
  std::scoped_lock lock(impl_->mutex);
  auto* entry = impl_->find(id);
  if (entry == nullptr || !std::holds_alternative<Loading>(entry->state))
    return fail(ErrorKind::internal, "{} became ready, but it was not being loaded", id.show());
  if (entry->known && entry->known->identity != known.identity) {
    auto error = other_bytes(id, entry->known->identity, known.identity);
    entry->become(Failed{error});
    return std::unexpected(std::move(error));
  }
  entry->known = std::move(known);
  entry->become(Resident{std::move(owned), {}});
  impl_->use(*entry);
  return {};
}

void Catalogue::fail_load(const CheckpointId& id, Error error) {
  TellAtEnd tell(impl_->listeners);
  std::scoped_lock lock(impl_->mutex);
  auto* entry = impl_->find(id);
  if (entry != nullptr && std::holds_alternative<Loading>(entry->state)) entry->become(Failed{std::move(error)});
}

Result<Lease> Catalogue::lease(const CheckpointId& id, std::string job) {
  // The claim keeps the entries, not the Catalogue, so a lease may outlive it. Both pointers of the lease share one
  // count: whichever goes last ends the claim, and until then nobody can evict the bytes.
  auto end_claim = [impl = impl_, id, job](void*) { impl->end_lease(id, job); };
  const Contents* contents = nullptr;
  {
    std::scoped_lock lock(impl_->mutex);
    auto* entry = impl_->find(id);
    if (entry == nullptr) return unknown(id);
    CKPTD_TRY(check_resident(id, *entry));
    auto& resident = std::get<Resident>(entry->state);
    contents = resident.contents.get();
    ++resident.leases[std::move(job)];
  }
  Lease lease;
  lease.claim_ = std::shared_ptr<void>(nullptr, std::move(end_claim));  // takes the mutex if it fails for memory
  lease.contents_ = std::shared_ptr<const Contents>(lease.claim_, contents);
  return lease;
}

std::vector<Lease> Catalogue::lease_all(const std::string& job) {
  std::vector<Lease> leases;
  for (const auto& view : list())
    if (view.state == State::resident)
      if (auto lease = this->lease(view.id, job)) leases.push_back(*std::move(lease));
  return leases;
}

Result<> Catalogue::evict(const CheckpointId& id, bool forget) {
  TellAtEnd tell(impl_->listeners);
  Entry old;  // outlives the lock, so that memory is given back after it and before the answer
  std::scoped_lock lock(impl_->mutex);
  auto* entry = impl_->find(id);
  if (entry == nullptr) return unknown(id);
  CKPTD_TRY(check_evictable(id, *entry, forget));
  if (std::holds_alternative<Resident>(entry->state)) old.state = entry->leave();
  if (forget) {
    std::swap(old.known, entry->known);
    impl_->entries.erase(id);
  }
  return {};
}

void Catalogue::touch(const CheckpointId& id) {
  std::scoped_lock lock(impl_->mutex);
  if (auto* entry = impl_->find(id)) impl_->use(*entry);
}

Result<> Catalogue::evict_unused(std::span<const Seen> versions) {
  std::vector<AllStates> old;  // outlives the lock, as above
  TellAtEnd tell(impl_->listeners);
  std::scoped_lock lock(impl_->mutex);
  for (const auto& seen : versions) {
    auto* entry = impl_->find(seen.id);
    if (entry == nullptr || !std::holds_alternative<Resident>(entry->state) || entry->use != seen.use)
      return fail(ErrorKind::busy, "{} was used or left meanwhile", seen.id.show());
    CKPTD_TRY(check_evictable(seen.id, *entry, false));
  }
  for (const auto& seen : versions) old.push_back(impl_->find(seen.id)->leave());
  return {};
}

Result<> Catalogue::set_kept(const CheckpointId& id, bool kept) {
  TellAtEnd tell(impl_->listeners);
  std::scoped_lock lock(impl_->mutex);
  auto* entry = impl_->find(id);
  if (entry == nullptr) return unknown(id);
  bool has_or_gets_memory =
      std::holds_alternative<Resident>(entry->state) || std::holds_alternative<Loading>(entry->state);
  if (kept && !has_or_gets_memory)
    return fail(ErrorKind::conflict,
                "{} is not resident, so there is nothing to keep; load it with `ckptctl load {} DIR --keep`",
                id.show(), id.show());
  entry->kept = kept;
  return {};
}

Subscription Catalogue::on_change(std::function<void()> listener) { return impl_->listeners.add(std::move(listener)); }

std::optional<View> Catalogue::view(const CheckpointId& id) const {
  std::scoped_lock lock(impl_->mutex);
  const auto* entry = impl_->find(id);
  return entry != nullptr ? std::optional(view_of(id, *entry)) : std::nullopt;
}

std::vector<View> Catalogue::list() const {
  std::scoped_lock lock(impl_->mutex);
  std::vector<View> views;
  for (const auto& [id, entry] : impl_->entries) views.push_back(view_of(id, entry));
  return views;
}

std::shared_ptr<const weights::Manifest> Catalogue::manifest_with_schema(const weights::Digest& schema) const {
  std::scoped_lock lock(impl_->mutex);
  for (const auto& [id, entry] : impl_->entries)
    if (entry.known && entry.known->schema == schema) return entry.known->manifest;
  return nullptr;
}

}  // namespace ckptd::catalogue
