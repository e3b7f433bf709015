#include "daemon/store/store.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "common/host_memory.h"
#include "common/units.h"
#include "daemon/store/lock_limit.h"
#include "daemon/store/pool.h"
#include "daemon/store/prefault.h"

namespace ckptd::store {
namespace {

Result<> check_budget(const Options& options, std::uint64_t segment_bytes) {
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  if (options.budget_bytes == 0)
    return fail(ErrorKind::invalid_argument, "the store needs a budget; give one, as in --store-budget 8GiB");
  if (segment_bytes % page_bytes != 0)
    return fail(ErrorKind::invalid_argument,
                "store segments of {} bytes are not a multiple of the page size of {} bytes", segment_bytes,
                page_bytes);
  if (options.budget_bytes < segment_bytes)
    return fail(ErrorKind::invalid_argument,
                "the store's budget of {} is smaller than one segment of {}; raise --store-budget",
                show_bytes(options.budget_bytes), show_bytes(segment_bytes));
  auto machine = read_machine(options.system_root);
  if (machine && options.budget_bytes > machine->total_bytes)
    return fail(ErrorKind::invalid_argument,
                "the store's budget of {} is more than this machine's memory of {}; lower --store-budget",
                show_bytes(options.budget_bytes), show_bytes(machine->total_bytes));
  return {};
}

Result<> check_lock_limit(const Options& options, std::uint64_t most_bytes) {
  if (options.lock != LockPolicy::required) return {};
  auto limit = read_lock_limit(options.system_root);
  if (limit >= most_bytes) return {};
  return std::unexpected(
      Error{ErrorKind::no_space,
            fmt::format("the store's budget of {} is to be locked in memory, but this process may lock only {} "
                        "(RLIMIT_MEMLOCK, without CAP_IPC_LOCK). {}",
                        show_bytes(most_bytes), show_bytes(limit), how_to_raise_the_lock_limit())}
          .with_fact("budget_bytes", std::to_string(most_bytes))
          .with_fact("limit_bytes", std::to_string(limit)));
}

}  // namespace

std::uint64_t default_segment_bytes(std::uint64_t budget_bytes) {
  return std::clamp(std::bit_floor(budget_bytes / 64), 2 * kMiB, kGiB);
}

struct Store::Impl {
  Impl(const Options& options, std::uint64_t segment_bytes, std::vector<device::Device*> devices)
      : pool(options, segment_bytes, std::move(devices)), prefault(pool, options.prefault) {}

  Pool pool;
  Prefault prefault;
};

Store::Store() = default;
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::create(const Options& options, std::vector<device::Device*> devices) {
  auto segment_bytes = options.segment_bytes != 0 ? options.segment_bytes : default_segment_bytes(options.budget_bytes);
  CKPTD_TRY(check_budget(options, segment_bytes));
  CKPTD_TRY(check_lock_limit(options, round_down(options.budget_bytes, segment_bytes)));
  std::unique_ptr<Store> store(new Store);
  store->impl_.reset(new Impl(options, segment_bytes, std::move(devices)));
  return store;
}

Result<Reservation> Store::reserve(std::uint64_t count, std::stop_token stop,
                                   const std::function<void(std::uint64_t)>& touched, const MakeRoom& make_room) {
  Reservation reservation;
  reservation.segments_ = CKPTD_TRY(impl_->pool.take(count, stop, touched, make_room));
  reservation.store_ = this;
  return reservation;
}

void Store::take_back(std::span<const Segment* const> segments) noexcept { impl_->pool.take_back(segments); }
std::uint64_t Store::trim() {
  impl_->prefault.end("a trim gave idle memory back");
  return impl_->pool.trim();
}

PrefaultStatus Store::prefault() const { return impl_->prefault.status(); }
Usage Store::usage() const { return impl_->pool.usage(); }
std::uint64_t Store::segment_bytes() const { return impl_->pool.segment_bytes(); }

Reservation::Reservation(Reservation&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)), segments_(std::exchange(other.segments_, {})) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  Reservation taken(std::move(other));
  std::swap(store_, taken.store_);
  std::swap(segments_, taken.segments_);
  return *this;
}

Reservation::~Reservation() {
  if (store_ != nullptr) store_->take_back(segments_);
}

std::vector<SharedSegment> share(Reservation reservation) {
  auto& lent = reservation.segments_;
  std::vector<SharedSegment> shared(lent.size());
  // From the end, so that at any moment each segment has exactly one owner; a shared_ptr that cannot be made gives back
  // what it was made for.
  while (!lent.empty()) {
    const auto* segment = lent.back();
    lent.pop_back();
    shared[lent.size()] = SharedSegment(segment, [store = reservation.store_](const Segment* back) {
      store->take_back({&back, 1});
    });
  }
  return shared;
}

std::uint64_t Reservation::bytes() const {
  std::uint64_t bytes = 0;
  for (const auto* segment : segments_) bytes += segment->memory.size();
  return bytes;
}

}  // namespace ckptd::store
