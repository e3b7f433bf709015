#include "tests/support/shuffling_device/shuffling_device.h"

#include <chrono>
#include <utility>

#include "tests/support/shuffling_device/order.h"

namespace ckptd::tests {
namespace {

using namespace std::chrono_literals;

class ShuffledEvent final : public device::Event {
 public:
  ShuffledEvent(std::shared_ptr<Order> order, std::string device)
      : order_(std::move(order)), device_(std::move(device)) {}

  bool reached() const override { return order_->reached(place_); }
  Result<> wait(Deadline deadline) override {
    CKPTD_TRY(order_->count(Call::event_wait, device_));
    return order_->wait(place_, deadline);
  }
  std::optional<Clock::time_point> reached_at() const override { return order_->reached_at(place_); }

  Place place_;

 private:
  const std::shared_ptr<Order> order_;
  const std::string device_;
};

class ShuffledStream final : public device::Stream {
 public:
  /// `under` carries out this stream's copies, one at a time.
  ShuffledStream(std::shared_ptr<Order> order, std::string device, std::unique_ptr<device::Stream> under)
      : order_(std::move(order)), device_(std::move(device)), under_(std::move(under)), queue_(order_->add_queue()) {}
  ShuffledStream(const ShuffledStream&) = delete;
  ShuffledStream& operator=(const ShuffledStream&) = delete;
  ~ShuffledStream() override { order_->remove_queue(queue_); }

  Result<> copy_from_host(device::Range to, const std::byte* from) override {
    CKPTD_TRY(order_->count(Call::copy_from_host, device_));
    return queue_copy(Call::work_copy_from_host, [this, to, from] { return under_->copy_from_host(to, from); });
  }

  Result<> copy(device::Range to, device::Range from) override {
    CKPTD_TRY(order_->count(Call::copy, device_));
    if (to.bytes != from.bytes)
      return fail(ErrorKind::invalid_argument, "{}: a copy from {} to {} bytes", device_, from.bytes, to.bytes);
    return queue_copy(Call::work_copy, [this, to, from] { return under_->copy(to, from); });
  }

  Result<> record(device::Event& event) override {
    CKPTD_TRY(order_->count(Call::record, device_));
    dynamic_cast<ShuffledEvent&>(event).place_ = order_->end_of(queue_);
    return {};
  }

  Result<> wait(const device::Event& event) override {
    CKPTD_TRY(order_->count(Call::wait, device_));
    const Place& place = dynamic_cast<const ShuffledEvent&>(event).place_;
    if (place.queue != queue_) order_->add(queue_, {.run = {}, .after = place});
    return {};
  }

  Result<> wake_when_done(const Waker& waker) override {
    CKPTD_TRY(order_->count(Call::wake_when_done, device_));
    auto wake = [&waker]() -> Result<> {
      waker.wake();
      return {};
    };
    order_->add(queue_, {.run = wake, .after = {}, .is_wake = true});
    return {};
  }

  Result<> synchronize(Deadline deadline) override {
    CKPTD_TRY(order_->count(Call::synchronize, device_));
    return order_->wait(order_->end_of(queue_), deadline);
  }

  void queue_work(std::function<Result<>()> work) {
    order_->add(queue_, {.run = std::move(work), .after = {}, .is_copy = true});
  }

 private:
  template <class QueueUnder>
  Result<> queue_copy(Call call, QueueUnder queue_under) {
    auto run = [this, call, queue_under]() -> Result<> {
      CKPTD_TRY(order_->count(call, device_));
      CKPTD_TRY(queue_under());
      return under_->synchronize(Deadline::in(60s));
    };
    order_->add(queue_, {.run = run, .after = {}, .is_copy = true});
    return {};
  }

  const std::shared_ptr<Order> order_;
  const std::string device_;
  const std::unique_ptr<device::Stream> under_;
  const std::shared_ptr<Queue> queue_;
};

class FaultyAllocation final : public device::Allocation {
 public:
  FaultyAllocation(std::shared_ptr<Order> order, std::string device, std::unique_ptr<device::Allocation> under)
      : order_(std::move(order)), device_(std::move(device)), under_(std::move(under)) {}

  device::Range range() const override { return under_->range(); }
  Result<device::Export> export_to_processes() override {
    CKPTD_TRY(order_->count(Call::export_to_processes, device_));
    return under_->export_to_processes();
  }

 private:
  const std::shared_ptr<Order> order_;
  const std::string device_;
  const std::unique_ptr<device::Allocation> under_;
};

class ShufflingDevice final : public device::Device {
 public:
  ShufflingDevice(std::shared_ptr<Order> order, std::unique_ptr<device::Device> under)
      : order_(std::move(order)), under_(std::move(under)) {}

  const device::Identity& identity() const override { return under_->identity(); }

  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t bytes) override {
    CKPTD_TRY(order_->count(Call::allocate, name()));
    return std::make_unique<FaultyAllocation>(order_, name(), CKPTD_TRY(under_->allocate(bytes)));
  }

  Result<std::unique_ptr<device::Allocation>> open(const device::Export& exported) override {
    CKPTD_TRY(order_->count(Call::open, name()));
    return std::make_unique<FaultyAllocation>(order_, name(), CKPTD_TRY(under_->open(exported)));
  }

  Result<std::unique_ptr<device::Stream>> make_stream() override {
    CKPTD_TRY(order_->count(Call::make_stream, name()));
    return std::make_unique<ShuffledStream>(order_, name(), CKPTD_TRY(under_->make_stream()));
  }

  Result<std::unique_ptr<device::Event>> make_event() override {
    CKPTD_TRY(order_->count(Call::make_event, name()));
    return std::make_unique<ShuffledEvent>(order_, name());
  }

  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    CKPTD_TRY(order_->count(Call::register_host, name()));
    return under_->register_host(memory);
  }

  Result<std::uint64_t> free_bytes() const override {
    CKPTD_TRY(order_->count(Call::free_bytes, name()));
    return under_->free_bytes();
  }

 private:
  const std::string& name() const { return under_->identity().uuid; }

  const std::shared_ptr<Order> order_;
  const std::unique_ptr<device::Device> under_;
};

}  // namespace

Result<> queue_work(device::Stream& stream, std::function<Result<>()> work) {
  auto* shuffled = dynamic_cast<ShuffledStream*>(&stream);
  if (shuffled == nullptr) return fail(ErrorKind::invalid_argument, "not a stream of a wrapped device");
  shuffled->queue_work(std::move(work));
  return {};
}

Shuffler::Shuffler(std::uint64_t seed) : order_(std::make_shared<Order>(seed)) {}
Shuffler::~Shuffler() = default;

std::unique_ptr<device::Device> Shuffler::wrap(std::unique_ptr<device::Device> under) {
  return std::make_unique<ShufflingDevice>(order_, std::move(under));
}

void Shuffler::fail_nth(Call call, unsigned n, std::string device) { order_->fail_nth(call, n, std::move(device)); }
void Shuffler::fail_nothing() { order_->fail_nothing(); }
unsigned Shuffler::calls(Call call) const { return order_->calls(call); }
void Shuffler::pause() { order_->pause(true); }
void Shuffler::resume() { order_->pause(false); }

}  // namespace ckptd::tests
