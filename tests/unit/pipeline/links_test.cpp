// That every device uploads its share over its own link: what it uploads for all waits for nobody else's upload.
#include <catch2/catch.hpp>
#include <mutex>
#include <set>
#include <utility>

#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using tests::Bench;
using tests::Script;

namespace {

/// Streams by what was queued in them.
struct Seen {
  std::mutex mutex;
  std::set<const device::Stream*> uploads, spreads;
};

class SeenStream final : public device::Stream {
 public:
  SeenStream(std::unique_ptr<device::Stream> under, Seen& seen) : under_(std::move(under)), seen_(seen) {}

  Result<> copy_from_host(device::Range to, const std::byte* from) override {
    note(seen_.uploads);
    return under_->copy_from_host(to, from);
  }
  Result<> copy(device::Range to, device::Range from) override {
    note(seen_.spreads);
    return under_->copy(to, from);
  }
  Result<> record(device::Event& event) override { return under_->record(event); }
  Result<> wait(const device::Event& event) override { return under_->wait(event); }
  Result<> wake_when_done(const Waker& waker) override { return under_->wake_when_done(waker); }
  Result<> synchronize(Deadline deadline) override { return under_->synchronize(deadline); }

 private:
  void note(std::set<const device::Stream*>& streams) {
    std::lock_guard lock(seen_.mutex);
    streams.insert(this);
  }
  const std::unique_ptr<device::Stream> under_;
  Seen& seen_;
};

class SeenDevice final : public device::Device {
 public:
  SeenDevice(std::unique_ptr<device::Device> under, Seen& seen) : under_(std::move(under)), seen_(seen) {}

  const device::Identity& identity() const override { return under_->identity(); }
  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t bytes) override { return under_->allocate(bytes); }
  Result<std::unique_ptr<device::Allocation>> open(const device::Export& exported) override {
    return under_->open(exported);
  }
  Result<std::unique_ptr<device::Stream>> make_stream() override {
    return std::make_unique<SeenStream>(CKPTD_TRY(under_->make_stream()), seen_);
  }
  Result<std::unique_ptr<device::Event>> make_event() override { return under_->make_event(); }
  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    return under_->register_host(memory);
  }
  Result<std::uint64_t> free_bytes() const override { return under_->free_bytes(); }

 private:
  const std::unique_ptr<device::Device> under_;
  Seen& seen_;
};

}  // namespace

TEST_CASE("what a device uploads for all is in no stream with what it is given by others") {
  Seen seen;
  Bench bench(3);
  for (auto& each : bench.devices) each = std::make_unique<SeenDevice>(std::move(each), seen);
  REQUIRE(bench.run(plan::FanOut::broadcast, std::vector<Script>(3)));
  for (const auto& model : bench.models) bench.check_model(*model);
  CHECK(seen.uploads.size() == 3);  // one of each device
  CHECK(seen.spreads.size() == 3);
  for (const auto* stream : seen.uploads) CHECK_FALSE(seen.spreads.contains(stream));
}
