// That an upload which makes progress is waited for, however long all of them together take.
#include <catch2/catch.hpp>
#include <thread>
#include <utility>

#include "tests/unit/pipeline/bench.h"

using namespace ckptd;
using tests::Bench;
using tests::Script;
using namespace std::chrono_literals;

namespace {

constexpr auto kEach = 150ms;

/// As over a slow link: what is queued before an event takes its time.
class SlowStream final : public device::Stream {
 public:
  explicit SlowStream(std::unique_ptr<device::Stream> under) : under_(std::move(under)) {}

  Result<> copy_from_host(device::Range to, const std::byte* from) override { return under_->copy_from_host(to, from); }
  Result<> copy(device::Range to, device::Range from) override { return under_->copy(to, from); }
  Result<> record(device::Event& event) override {
    CKPTD_TRY(tests::queue_work(*under_, []() -> Result<> {
      std::this_thread::sleep_for(kEach);
      return {};
    }));
    return under_->record(event);
  }
  Result<> wait(const device::Event& event) override { return under_->wait(event); }
  Result<> wake_when_done(const Waker& waker) override { return under_->wake_when_done(waker); }
  Result<> synchronize(Deadline deadline) override { return under_->synchronize(deadline); }

 private:
  const std::unique_ptr<device::Stream> under_;
};

class SlowDevice final : public device::Device {
 public:
  explicit SlowDevice(std::unique_ptr<device::Device> under) : under_(std::move(under)) {}

  const device::Identity& identity() const override { return under_->identity(); }
  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t bytes) override { return under_->allocate(bytes); }
  Result<std::unique_ptr<device::Allocation>> open(const device::Export& exported) override {
    return under_->open(exported);
  }
  Result<std::unique_ptr<device::Stream>> make_stream() override {
    return std::make_unique<SlowStream>(CKPTD_TRY(under_->make_stream()));
  }
  Result<std::unique_ptr<device::Event>> make_event() override { return under_->make_event(); }
  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    return under_->register_host(memory);
  }
  Result<std::uint64_t> free_bytes() const override { return under_->free_bytes(); }

 private:
  const std::unique_ptr<device::Device> under_;
};

}  // namespace

TEST_CASE("buckets that are queued together each have the whole deadline of an upload") {
  Bench bench(1);
  bench.devices[0] = std::make_unique<SlowDevice>(std::move(bench.devices[0]));
  bench.deadlines.upload = 8 * kEach;
  const auto pushed = bench.run(plan::FanOut::independent, std::vector<Script>(1), {}, 4096, 16 * 4096);
  INFO((pushed ? "" : pushed.error().sentence));
  REQUIRE(pushed);
  bench.check_model(*bench.models[0]);
  CHECK(bench.plan.buckets.size() > 8);  // together they take longer than the deadline
}
