#include "daemon/records/archive.h"

#include <utility>

namespace ckptd::records {
namespace {

namespace api = proto::control;

std::uint64_t bytes_of(const std::vector<api::TimeShare>& shares) {
  std::uint64_t bytes = shares.size() * sizeof(api::TimeShare);
  for (const auto& share : shares) bytes += share.waited_for.size();
  return bytes;
}

/// Roughly: what grows with lanes and buckets, and the long texts.
std::uint64_t bytes_of(const api::JobRecord& record) {
  std::uint64_t bytes = sizeof(record) + 256;
  for (const auto& push : record.engines) {
    bytes += sizeof(push) + bytes_of(push.shares) + push.because.size() + push.came_to.size();
    bytes += push.steps.size() * sizeof(api::StageFigure) + push.slowest.size() * (sizeof(api::SlowBucket) + 64);
    if (push.error) bytes += push.error->sentence.size() + push.error->vendor.size();
    for (const auto& lane : push.lanes)
      bytes += sizeof(lane) + lane.device.size() + bytes_of(lane.shares) + lane.stages.size() * sizeof(api::StageFigure);
  }
  if (record.load) bytes += bytes_of(record.load->shares) + record.load->stages.size() * sizeof(api::StageFigure);
  return bytes;
}

}  // namespace

void Archive::keep(api::JobRecord record, api::Trace trace) {
  Entry entry;
  entry.record_bytes = bytes_of(record);
  entry.trace_bytes = trace.memory_bytes();
  const auto job = record.job;
  entry.record = std::make_shared<const api::JobRecord>(std::move(record));
  entry.trace = std::make_shared<const api::Trace>(std::move(trace));
  std::lock_guard lock(mutex_);
  bytes_ += entry.record_bytes + entry.trace_bytes;
  const auto [at, added] = entries_.insert_or_assign(job, std::move(entry));
  if (added) oldest_first_.push_back(at->first);
  make_room();
}

void Archive::make_room() {
  for (const auto& job : oldest_first_) {
    if (bytes_ <= limit_bytes_) break;
    auto& entry = entries_.at(job);
    bytes_ -= std::exchange(entry.trace_bytes, 0);
    entry.trace.reset();
  }
  while (!oldest_first_.empty() && (bytes_ > limit_bytes_ || oldest_first_.size() > jobs_)) {
    const auto at = entries_.find(oldest_first_.front());
    bytes_ -= at->second.record_bytes + at->second.trace_bytes;
    entries_.erase(at);
    oldest_first_.pop_front();
  }
}

std::shared_ptr<const api::JobRecord> Archive::record(const std::string& job) const {
  std::lock_guard lock(mutex_);
  const auto at = entries_.find(job);
  return at == entries_.end() ? nullptr : at->second.record;
}

std::shared_ptr<const api::Trace> Archive::trace(const std::string& job) const {
  std::lock_guard lock(mutex_);
  const auto at = entries_.find(job);
  return at == entries_.end() ? nullptr : at->second.trace;
}

std::uint64_t Archive::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace ckptd::records
