#include "daemon/store/pool.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "common/host_memory.h"
#include "daemon/store/admission.h"
#include "daemon/store/numa_placement.h"
#include "daemon/store/registering.h"

namespace ckptd::store {
namespace {

std::vector<int> nodes_of(const std::vector<device::Device*>& devices) {
  std::vector<int> nodes;
  for (const auto* device : devices) nodes.push_back(device->identity().numa_node);
  return nodes;
}

}  // namespace

Pool::Pool(const Options& options, std::uint64_t segment_bytes, std::vector<device::Device*> devices)
    : options_(options),
      segment_bytes_(segment_bytes),
      budget_segments_(options.budget_bytes / segment_bytes),
      devices_(std::move(devices)),
      numa_nodes_(nodes_for_segments(usable_numa_nodes(options.system_root), nodes_of(devices_))) {}

Pool::~Pool() { assert(in_use() == 0 && "a reservation outlived its store"); }

/// The step that is under way takes milliseconds, so even the claim waits for it: afterwards the segment may change
/// hands.
class Pool::Precedence {
 public:
  explicit Precedence(Pool& pool) : pool_(pool) {
    std::unique_lock hold(pool_.mutex_);
    ++pool_.being_made_;
    pool_.precedence_changed_.wait(hold, [&] { return !pool_.stepping_; });
  }
  ~Precedence() {
    {
      std::scoped_lock hold(pool_.mutex_);
      --pool_.being_made_;
    }
    pool_.precedence_changed_.notify_all();
  }
  Precedence(const Precedence&) = delete;
  Precedence& operator=(const Precedence&) = delete;

 private:
  Pool& pool_;
};

Result<std::vector<const Segment*>> Pool::take(std::uint64_t count, const std::stop_token& stop, const Touched& touched,
                                               const MakeRoom& make_room) {
  Precedence before_what_is_ahead(*this);
  auto claim = CKPTD_TRY(this->claim(count, make_room));
  if (auto made = make_all(claim, stop, touched); !made) {
    // A cancelled load has paid for its memory, and the next one need not; after a failure the machine gets it back.
    abandon(claim, made.error().kind == ErrorKind::cancelled);
    return std::unexpected(std::move(made).error());
  }
  return std::move(claim.segments);
}

void Pool::take_back(std::span<const Segment* const> segments) noexcept {
  std::scoped_lock hold(mutex_);
  for (const auto* segment : segments) slots_.find(segment->number)->second.use = Use::idle;
}

std::uint64_t Pool::trim() {
  std::uint64_t freed_bytes = 0;
  for (;;) {
    std::unique_ptr<PinnedSegment> segment;
    {
      std::unique_lock hold(mutex_);
      precedence_changed_.wait(hold, [&] { return !stepping_; });
      auto spare = std::ranges::find_if(
          slots_, [](const auto& entry) { return entry.second.use == Use::idle || entry.second.use == Use::ahead; });
      if (spare == slots_.end()) return freed_bytes;
      if (spare->second.use == Use::ahead) {
        promised_bytes_ -= std::exchange(ahead_promised_bytes_, 0);
        ahead_.reset();
      }
      spare->second.use = Use::leaving;
      segment = std::move(spare->second.segment);
    }
    // Unmapping a gigabyte takes a while. Its place in the budget is free only afterwards.
    auto number = segment->description().number;
    freed_bytes += segment->touched_bytes();
    segment.reset();
    std::scoped_lock hold(mutex_);
    slots_.erase(number);
  }
}

Usage Pool::usage() const {
  std::scoped_lock hold(mutex_);
  Usage usage{.budget_bytes = options_.budget_bytes, .segment_bytes = segment_bytes_};
  for (const auto& [number, slot] : slots_) {
    if (slot.use == Use::lent) usage.lent_bytes += segment_bytes_;
    if (slot.use == Use::idle) usage.idle_bytes += segment_bytes_;
    if (!slot.segment || slot.use == Use::ahead) continue;  // whose description is still being written
    usage.ready_bytes += segment_bytes_;
    if (slot.segment->description().locked) usage.locked_bytes += segment_bytes_;
    if (slot.segment->description().huge_pages) usage.huge_page_bytes += segment_bytes_;
  }
  return usage;
}

std::uint64_t Pool::in_use() const {
  return static_cast<std::uint64_t>(std::ranges::count_if(slots_, [](const auto& entry) {
    return entry.second.use == Use::lent || entry.second.use == Use::leaving;
  }));
}

std::uint64_t Pool::huge_segments_possible() const {
  if (!options_.huge_pages || segment_bytes_ % kHugePageBytes != 0) return 0;
  return read_free_huge_pages(options_.system_root) / (segment_bytes_ / kHugePageBytes);
}

int Pool::next_node() const {
  if (numa_nodes_.empty()) return -1;
  std::vector<int> taken;
  for (const auto& [number, slot] : slots_) taken.push_back(slot.numa_node);
  return least_used_node(numa_nodes_, taken);
}

Result<> Pool::promise(std::uint64_t bytes, Claim& claim) {
  if (bytes == 0) return {};
  CKPTD_TRY(admit_new_memory(bytes, promised_bytes_, read_ceilings(options_.system_root)));
  promised_bytes_ += bytes;
  claim.promised_bytes += bytes;
  return {};
}

void Pool::keep_promise(std::uint64_t bytes, Claim& claim) {
  std::scoped_lock hold(mutex_);
  claim.promised_bytes -= bytes;
  promised_bytes_ -= bytes;
}

Result<Pool::Claim> Pool::claim(std::uint64_t count, const MakeRoom& make_room) {
  // Nobody else may claim what one caller made room for. Whoever holds the memory may come and go meanwhile, so that
  // room may have to be made again; not for ever, should make_room say yes and do nothing.
  std::scoped_lock one_at_a_time(room_mutex_);
  for (int tries = 0;; ++tries) {
    auto claimed = try_claim(count);
    if (claimed) return std::move(*claimed);
    auto& refusal = claimed.error();
    if (!make_room || refusal.missing_segments == 0 || tries == 3) return std::unexpected(std::move(refusal.error));
    CKPTD_TRY(make_room(refusal.missing_segments, refusal.error));
  }
}

/// Takes places in the budget and idle segments, all or nothing; touches no memory.
std::expected<Pool::Claim, Pool::Refusal> Pool::try_claim(std::uint64_t count) {
  std::scoped_lock hold(mutex_);
  const auto used = in_use();
  const auto idle = slots_.size() - used - (ahead_ ? 1 : 0);
  const auto to_make = count - std::min<std::uint64_t>(count, idle);
  const bool take_over = ahead_ && to_make > 0;
  const auto fresh = to_make - (take_over ? 1 : 0);
  Claim claim;
  claim.idle_count = count - to_make;
  claim.huge_count = fresh == 0 ? 0 : std::min(fresh, huge_segments_possible());
  const auto new_bytes = (fresh - claim.huge_count) * segment_bytes_;

  auto admitted = admit_into_budget(count, used, budget_segments_, segment_bytes_);
  if (!admitted && count > budget_segments_) return std::unexpected(Refusal{std::move(admitted).error(), 0});
  std::uint64_t missing = admitted ? 0 : used + count - budget_segments_;
  const auto ceilings = new_bytes == 0 ? std::vector<Ceiling>() : read_ceilings(options_.system_root);
  if (auto room = admissible_bytes(promised_bytes_, ceilings); room && *room < new_bytes)
    missing = std::max(missing, (new_bytes - *room + segment_bytes_ - 1) / segment_bytes_);
  if (admitted) admitted = admit_new_memory(new_bytes, promised_bytes_, ceilings);
  if (!admitted) return std::unexpected(Refusal{std::move(admitted).error(), missing});
  promised_bytes_ += new_bytes;
  claim.promised_bytes += new_bytes;

  for (auto& [number, slot] : slots_) {
    if (claim.segments.size() == claim.idle_count) break;
    if (slot.use != Use::idle) continue;
    slot.use = Use::lent;
    claim.segments.push_back(&slot.segment->description());
  }
  if (take_over) {
    auto& slot = slots_.at(*ahead_);
    slot.use = Use::lent;
    claim.begun = std::move(slot.segment);
    claim.to_make.push_back(*std::exchange(ahead_, std::nullopt));
    claim.promised_bytes += std::exchange(ahead_promised_bytes_, 0);
  }
  for (std::uint64_t i = 0; i < fresh; ++i) {
    claim.to_make.push_back(next_number_++);
    auto node = next_node();
    slots_[claim.to_make.back()].numa_node = node;
  }
  return claim;
}

Result<> Pool::make_all(Claim& claim, const std::stop_token& stop, const Touched& touched) {
  std::uint64_t ready_bytes = claim.segments.size() * segment_bytes_;
  auto report = [&](std::uint64_t in_this_segment) {
    if (touched) touched(ready_bytes + in_this_segment);
  };
  report(0);
  Registering registering(devices_, [&](std::unique_ptr<PinnedSegment> segment) {
    std::scoped_lock hold(mutex_);
    claim.segments.push_back(&segment->description());
    slots_.at(segment->description().number).segment = std::move(segment);
  });
  const auto made = [&]() -> Result<> {
    auto huge_left = claim.huge_count;
    for (auto number : claim.to_make) {
      if (stop.stop_requested()) return fail(ErrorKind::cancelled, "stopped while memory was being made ready");
      const bool try_huge_pages = !claim.begun && huge_left > 0 && huge_left-- > 0;
      auto segment = CKPTD_TRY(make_one(number, try_huge_pages, claim, stop, report));
      ready_bytes += segment_bytes_;
      CKPTD_TRY(registering.add(std::move(segment)));
    }
    return {};
  }();
  auto registered = registering.settle();
  CKPTD_TRY(std::move(registered));  // why a load failed, also if it was cancelled meanwhile
  return made;
}

Result<std::unique_ptr<PinnedSegment>> Pool::make_one(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                      const std::stop_token& stop, const Touched& touched) {
  if (claim.begun) {
    const auto promised = claim.begun->description().huge_pages ? 0 : segment_bytes_;
    CKPTD_TRY(claim.begun->touch(segment_bytes_, stop, touched));
    keep_promise(promised, claim);
    CKPTD_TRY(lock(*claim.begun));
    return std::move(claim.begun);
  }
  auto segment = CKPTD_TRY(make_pages(number, try_huge_pages, claim, stop, touched));
  CKPTD_TRY(lock(*segment));
  return segment;
}

Result<std::unique_ptr<PinnedSegment>> Pool::make_pages(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                         const std::stop_token& stop, const Touched& touched) {
  int node;
  {
    std::scoped_lock hold(mutex_);
    node = slots_.at(number).numa_node;
  }
  const auto make = [&](bool huge_pages) -> Result<std::unique_ptr<PinnedSegment>> {
    auto segment = CKPTD_TRY(PinnedSegment::map(number, segment_bytes_, node, huge_pages));
    CKPTD_TRY(segment->touch(segment_bytes_, stop, touched));
    return segment;
  };
  if (try_huge_pages) {
    auto huge = make(true);
    if (huge || huge.error().kind == ErrorKind::cancelled) return huge;
    // Somebody else took the pool's pages: ordinary memory then, if that is admitted too.
    std::scoped_lock hold(mutex_);
    CKPTD_TRY(promise(segment_bytes_, claim));
  }
  auto made = make(false);
  keep_promise(segment_bytes_, claim);
  return made;
}

Result<> Pool::finish(PinnedSegment& segment) {
  CKPTD_TRY(lock(segment));
  return segment.register_with(devices_);
}

Result<std::uint64_t> Pool::prepare(std::uint64_t step_bytes, const std::stop_token& stop) {
  PinnedSegment* segment = nullptr;
  {
    std::unique_lock hold(mutex_);
    if (!precedence_changed_.wait(hold, stop, [this] { return being_made_ == 0; }) || stop.stop_requested())
      return 0;
    if (!ahead_) CKPTD_TRY(begin_ahead());
    if (!ahead_) return 0;
    segment = slots_.at(*ahead_).segment.get();
    stepping_ = true;
  }
  const auto touched_before = segment->touched_bytes();
  auto stepped = advance(*segment, step_bytes, stop);
  const auto step = segment->touched_bytes() - touched_before;
  const bool give_up = !stepped && stepped.error().kind != ErrorKind::cancelled;
  std::unique_ptr<PinnedSegment> given_up;  // its memory goes back outside the mutex, before its place does
  {
    std::scoped_lock hold(mutex_);
    auto& slot = slots_.at(*ahead_);
    if (give_up) given_up = std::move(slot.segment);
    if (stepped && slot.segment->is_touched()) {
      slot.use = Use::idle;
      ahead_.reset();
    }
    if (give_up || segment->is_touched()) promised_bytes_ -= std::exchange(ahead_promised_bytes_, 0);
  }
  given_up.reset();
  {
    std::scoped_lock hold(mutex_);
    if (give_up) slots_.erase(*std::exchange(ahead_, std::nullopt));
    stepping_ = false;
  }
  precedence_changed_.notify_all();
  if (give_up) return std::unexpected(std::move(stepped).error());
  return stepped ? step : 0;
}

/// Finds the place and the address space of one more segment, if the budget has room for it.
Result<> Pool::begin_ahead() {
  if (slots_.size() >= budget_segments_) return {};
  const auto number = next_number_++;
  const auto node = next_node();
  auto segment = huge_segments_possible() > 0 ? PinnedSegment::map(number, segment_bytes_, node, true)
                                              : Result<std::unique_ptr<PinnedSegment>>(nullptr);
  if (!segment || *segment == nullptr) {
    CKPTD_TRY(admit_new_memory(segment_bytes_, promised_bytes_, read_ceilings(options_.system_root)));
    segment = CKPTD_TRY(PinnedSegment::map(number, segment_bytes_, node, false));
    ahead_promised_bytes_ = segment_bytes_;
    promised_bytes_ += segment_bytes_;
  }
  slots_[number] = {.segment = *std::move(segment), .use = Use::ahead, .numa_node = node};
  ahead_ = number;
  return {};
}

Result<> Pool::advance(PinnedSegment& segment, std::uint64_t step_bytes, const std::stop_token& stop) {
  CKPTD_TRY(segment.touch(step_bytes, stop, {}));
  if (!segment.is_touched()) return {};
  return finish(segment);
}

Result<> Pool::lock(PinnedSegment& segment) {
  if (options_.lock == LockPolicy::off) return {};
  auto locked = segment.lock();
  if (locked || options_.lock == LockPolicy::required) return locked;
  std::scoped_lock hold(mutex_);
  if (!std::exchange(warned_about_locking_, true))
    spdlog::warn("the store goes on with memory that may be swapped out, as --lock try allows: {}",
                 locked.error().sentence);
  return {};
}

void Pool::abandon(Claim& claim, bool keep_what_is_ready) {
  std::vector<std::uint32_t> leaving;
  std::vector<std::unique_ptr<PinnedSegment>> memory;
  {
    std::scoped_lock hold(mutex_);
    promised_bytes_ -= claim.promised_bytes;
    for (std::size_t i = 0; i < claim.idle_count; ++i) slots_.at(claim.segments[i]->number).use = Use::idle;
    for (auto number : claim.to_make) {
      auto& slot = slots_.at(number);
      slot.use = keep_what_is_ready && slot.segment ? Use::idle : Use::leaving;
      if (slot.use == Use::idle) continue;
      leaving.push_back(number);
      memory.push_back(std::move(slot.segment));
    }
  }
  memory.clear();
  claim.begun.reset();
  std::scoped_lock hold(mutex_);
  for (auto number : leaving) slots_.erase(number);
}

}  // namespace ckptd::store
