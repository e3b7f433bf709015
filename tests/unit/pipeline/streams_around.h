// A device whose streams a test wraps, to see or to slow what goes through them. All else is the device's.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "daemon/device/device.h"

namespace ckptd::tests {

class StreamAround : public device::Stream {
 public:
  explicit StreamAround(std::unique_ptr<device::Stream> under) : under_(std::move(under)) {}

  Result<> copy_from_host(device::Range to, const std::byte* from) override { return under_->copy_from_host(to, from); }
  Result<> copy(device::Range to, device::Range from) override { return under_->copy(to, from); }
  Result<> record(device::Event& event) override { return under_->record(event); }
  Result<> wait(const device::Event& event) override { return under_->wait(event); }
  Result<> wake_when_done(const Waker& waker) override { return under_->wake_when_done(waker); }
  Result<> synchronize(Deadline deadline) override { return under_->synchronize(deadline); }

 protected:
  device::Stream& under() { return *under_; }

 private:
  const std::unique_ptr<device::Stream> under_;
};

class DeviceAround final : public device::Device {
 public:
  using Wrap = std::function<std::unique_ptr<device::Stream>(std::unique_ptr<device::Stream>)>;
  DeviceAround(std::unique_ptr<device::Device> under, Wrap wrap) : under_(std::move(under)), wrap_(std::move(wrap)) {}

  const device::Identity& identity() const override { return under_->identity(); }
  Result<std::unique_ptr<device::Allocation>> allocate(std::uint64_t bytes) override { return under_->allocate(bytes); }
  Result<std::unique_ptr<device::Allocation>> open(const device::Export& exported) override {
    return under_->open(exported);
  }
  Result<std::unique_ptr<device::Stream>> make_stream() override { return wrap_(CKPTD_TRY(under_->make_stream())); }
  Result<std::unique_ptr<device::Event>> make_event() override { return under_->make_event(); }
  Result<std::unique_ptr<device::HostRegistration>> register_host(std::span<std::byte> memory) override {
    return under_->register_host(memory);
  }
  Result<std::uint64_t> free_bytes() const override { return under_->free_bytes(); }

 private:
  const std::unique_ptr<device::Device> under_;
  const Wrap wrap_;
};

}  // namespace ckptd::tests
