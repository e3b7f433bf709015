#include "daemon/store/registering.h"

#include <utility>

namespace ckptd::store {
namespace {

constexpr std::size_t kMostAtOnce = 4;

}  // namespace

Result<> Registering::add(std::unique_ptr<PinnedSegment> segment) {
  if (under_way_.size() == kMostAtOnce) CKPTD_TRY(settle_first());
  auto* const memory = segment.get();
  // Where no thread can be had it is done while somebody waits for it.
  auto done = std::async(std::launch::async | std::launch::deferred,
                         [memory, devices = devices_] { return memory->register_with(devices); });
  under_way_.push_back({std::move(segment), std::move(done)});
  return {};
}

Result<> Registering::settle() {
  Result<> outcome;
  while (!under_way_.empty())
    if (auto settled = settle_first(); !settled && outcome) outcome = std::move(settled);
  return outcome;
}

Result<> Registering::settle_first() {
  One first = std::move(under_way_.front());
  under_way_.pop_front();
  CKPTD_TRY(first.done.get());
  ready_(std::move(first.segment));
  return {};
}

}  // namespace ckptd::store
