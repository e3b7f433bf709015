#include "daemon/store/pool.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "daemon/store/admission.h"
#include "daemon/store/host_memory.h"
#include "daemon/store/numa_placement.h"

namespace ckptd::store {

Pool::Pool(const Options& options, std::uint64_t segment_bytes, std::vector<device::Device*> devices)
    : options_(options),
      segment_bytes_(segment_bytes),
      budget_segments_(options.budget_bytes / segment_bytes),
      devices_(std::move(devices)),
      numa_nodes_(usable_numa_nodes()) {}

Pool::~Pool() { assert(in_use() == 0 && "a reservation outlived its store"); }

Result<std::vector<const Segment*>> Pool::take(std::uint64_t count, const std::stop_token& stop,
                                               const Touched& touched) {
  auto claim = CKPTD_TRY(this->claim(count));
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
      std::scoped_lock hold(mutex_);
      auto idle = std::ranges::find_if(slots_, [](const auto& entry) { return entry.second.use == Use::idle; });
      if (idle == slots_.end()) return freed_bytes;
      idle->second.use = Use::leaving;
      segment = std::move(idle->second.segment);
    }
    // Unmapping a gigabyte takes a while. Its place in the budget is free only afterwards.
    auto number = segment->description().number;
    segment.reset();
    std::scoped_lock hold(mutex_);
    slots_.erase(number);
    freed_bytes += segment_bytes_;
  }
}

Usage Pool::usage() const {
  std::scoped_lock hold(mutex_);
  Usage usage{.budget_bytes = options_.budget_bytes, .segment_bytes = segment_bytes_};
  for (const auto& [number, slot] : slots_) {
    if (slot.use == Use::lent) usage.lent_bytes += segment_bytes_;
    if (slot.use == Use::idle) usage.idle_bytes += segment_bytes_;
    if (slot.segment && slot.segment->description().locked) usage.locked_bytes += segment_bytes_;
    if (slot.segment && slot.segment->description().huge_pages) usage.huge_page_bytes += segment_bytes_;
  }
  return usage;
}

std::uint64_t Pool::in_use() const {
  return static_cast<std::uint64_t>(
      std::ranges::count_if(slots_, [](const auto& entry) { return entry.second.use != Use::idle; }));
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

/// Takes places in the budget and idle segments, all or nothing; touches no memory.
Result<Pool::Claim> Pool::claim(std::uint64_t count) {
  std::scoped_lock hold(mutex_);
  auto used = in_use();
  CKPTD_TRY(admit_into_budget(count, used, budget_segments_, segment_bytes_));
  auto fresh = count - std::min<std::uint64_t>(count, slots_.size() - used);
  Claim claim;
  claim.idle_count = count - fresh;
  claim.huge_count = fresh == 0 ? 0 : std::min(fresh, huge_segments_possible());
  CKPTD_TRY(promise((fresh - claim.huge_count) * segment_bytes_, claim));

  for (auto& [number, slot] : slots_) {
    if (claim.segments.size() == claim.idle_count) break;
    if (slot.use != Use::idle) continue;
    slot.use = Use::lent;
    claim.segments.push_back(&slot.segment->description());
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
  for (std::size_t i = 0; i < claim.to_make.size(); ++i) {
    if (stop.stop_requested()) return fail(ErrorKind::cancelled, "stopped while memory was being made ready");
    CKPTD_TRY(make_one(claim.to_make[i], i < claim.huge_count, claim, stop, report));
    ready_bytes += segment_bytes_;
  }
  return {};
}

Result<> Pool::make_one(std::uint32_t number, bool try_huge_pages, Claim& claim, const std::stop_token& stop,
                       const Touched& touched) {
  auto segment = CKPTD_TRY(make_pages(number, try_huge_pages, claim, stop, touched));
  CKPTD_TRY(lock(*segment));
  CKPTD_TRY(segment->register_with(devices_));
  std::scoped_lock hold(mutex_);
  claim.segments.push_back(&segment->description());
  slots_.at(number).segment = std::move(segment);
  return {};
}

Result<std::unique_ptr<PinnedSegment>> Pool::make_pages(std::uint32_t number, bool try_huge_pages, Claim& claim,
                                                         const std::stop_token& stop, const Touched& touched) {
  int node;
  {
    std::scoped_lock hold(mutex_);
    node = slots_.at(number).numa_node;
  }
  if (try_huge_pages) {
    auto huge = PinnedSegment::make(number, segment_bytes_, node, true, stop, touched);
    if (huge || huge.error().kind == ErrorKind::cancelled) return huge;
    // Somebody else took the pool's pages: ordinary memory then, if that is admitted too.
    std::scoped_lock hold(mutex_);
    CKPTD_TRY(promise(segment_bytes_, claim));
  }
  auto made = PinnedSegment::make(number, segment_bytes_, node, false, stop, touched);
  keep_promise(segment_bytes_, claim);
  return made;
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

void Pool::abandon(const Claim& claim, bool keep_what_is_ready) {
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
  std::scoped_lock hold(mutex_);
  for (auto number : leaving) slots_.erase(number);
}

}  // namespace ckptd::store
